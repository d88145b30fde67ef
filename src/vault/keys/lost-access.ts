/** Which way into a vault is lost with a damaged key slot, as far as its bytes still say so. */
import { isKluisError } from "#base/kluis-error.ts";
import { slotBytesMax, type SlotType } from "#formats/key-slot.ts";
import type { ObjectStore } from "#ports/object-store.ts";

/** How messages call the key of a slot. */
export const keyWords: Readonly<Record<SlotType, string>> = {
  passphrase: "passphrase",
  recovery: "recovery key",
  "key-file": "key file",
  "customer-key": "customer key",
  "platform-key": "platform key",
};

/** Which key opens no more, in words. Errors: those of the store, unless they are the object's own. */
export async function describeLostSlot(
  store: ObjectStore,
  name: string,
  signal?: AbortSignal,
): Promise<string> {
  return `the ${(await readWord(store, name, signal)) ?? "key"} that it belongs to opens this vault no more`;
}

/** The type stands in plain text, and most damage lies elsewhere. */
async function readWord(
  store: ObjectStore,
  name: string,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  try {
    const sizeBytes = (await store.stat(name, signal))?.sizeBytes ?? 0;
    const range = { offsetBytes: 0, lengthBytes: Math.min(sizeBytes, slotBytesMax) };
    const text = Buffer.from(await store.get(name, range, signal)).toString("latin1");
    const type = /"type":"([a-z-]{1,20})"/.exec(text)?.[1];
    return Object.entries(keyWords).find(([known]) => known === type)?.[1];
  } catch (error) {
    const isOwn = isKluisError(error, "ObjectNotFound") || isKluisError(error, "ObjectCorrupt");
    if (!isOwn) throw error;
    return undefined;
  }
}
