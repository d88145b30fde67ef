/** Damage done to bytes and stored objects on purpose. */
import { assert } from "#base/assert.ts";
import type { ObjectStore } from "#ports/object-store.ts";

/** A copy of `bytes` with one bit turned over; bit 0 is the lowest of byte 0. */
export function flipBit(bytes: Uint8Array, bit: number): Uint8Array {
  // Not slice: that of a Buffer shares its memory.
  const copy = new Uint8Array(bytes);
  const at = Math.floor(bit / 8);
  const byte = copy[at];
  assert(byte !== undefined, "the bit lies in the bytes");
  copy[at] = byte ^ (1 << (bit % 8));
  return copy;
}

/** Puts `content` in the place of an object, as no part of a vault ever does. */
export async function replaceObject(
  store: ObjectStore,
  name: string,
  content: Uint8Array,
): Promise<void> {
  await store.remove(name);
  const outcome = await store.put(name, [content]);
  assert(outcome === "created", "nobody else writes the damaged object");
}

/** Turns over one bit of a stored object. */
export async function flipObjectBit(store: ObjectStore, name: string, bit: number): Promise<void> {
  await replaceObject(store, name, flipBit(await store.get(name), bit));
}
