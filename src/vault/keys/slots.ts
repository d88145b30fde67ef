/** The key slots of a store: putting one, listing them. Which of them are valid, key records say. */
import { createHash } from "node:crypto";

import { bytesEqual } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { parseKeySlot, slotBytesMax, type KeySlot } from "#formats/key-slot.ts";
import { parseStoreName, slotName, slotPrefix } from "#formats/store-names.ts";
import type { ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import type { KeySecret } from "#vault/key-secret.ts";
import type { KeyRing } from "#vault/keys/key-ring.ts";
import { sealSlot } from "#vault/keys/seal-slot.ts";

/** Most objects under `keys/` that are looked at: slots of creations that did not finish stay. */
export const slotObjectsMax = 256;

/** One slot of a vault. */
export interface NamedSlot {
  readonly name: string;
  /** SHA-256 of the object, 32 bytes. */
  readonly hash: Uint8Array;
  readonly slot: KeySlot;
}

/** What lies under `keys/` of a store. */
export interface SlotListing {
  /** Slots of this vault, by name. */
  readonly slots: readonly NamedSlot[];
  /** Names of objects that are no whole slot; their names are their hashes, so this is certain. */
  readonly damaged: readonly string[];
  /** Names of slots that a newer version wrote. */
  readonly newer: readonly string[];
}

/** A slot that was put. */
export interface PutSlot {
  /** SHA-256 of the object, 32 bytes: its name. */
  readonly hash: Uint8Array;
  readonly slot: KeySlot;
}

/**
 * Puts a new slot that opens `ring` with `secret`; it is durable on return, and valid when a key
 * record lists it. Errors: those of the store and of the key provider.
 */
export async function putSlot(
  store: ObjectStore,
  ring: KeyRing,
  secret: KeySecret,
  options: { readonly random: RandomSource; readonly signal?: AbortSignal },
): Promise<PutSlot> {
  const { bytes } = await sealSlot(ring, secret, options);
  const hash = new Uint8Array(createHash("sha256").update(bytes).digest());
  await store.put(slotName(hash), [bytes], options.signal);
  return { hash, slot: parseKeySlot(bytes) };
}

/** Reads all slots of the vault; slots of other vault ids are left out. */
export async function listKeySlots(
  store: ObjectStore,
  vaultId: Uint8Array,
  signal?: AbortSignal,
): Promise<SlotListing> {
  const infos: ObjectInfo[] = [];
  for await (const info of store.list(slotPrefix, signal)) {
    infos.push(info);
    if (infos.length > slotObjectsMax) {
      throw new KluisError(
        "ObjectCorrupt",
        `Cannot read the key slots: there are more than ${slotObjectsMax} objects under keys/`,
      );
    }
  }
  const slots: NamedSlot[] = [];
  const damaged: string[] = [];
  const newer: string[] = [];
  for (const info of infos.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const slot = await readSlot(store, info, signal);
    // Removed since it was listed.
    if (slot === "gone") continue;
    if (slot === "damaged") damaged.push(info.name);
    else if (slot === "newer") newer.push(info.name);
    else if (bytesEqual(slot.slot.vaultId, vaultId)) slots.push({ name: info.name, ...slot });
  }
  return { slots, damaged, newer };
}

async function readSlot(
  store: ObjectStore,
  info: ObjectInfo,
  signal: AbortSignal | undefined,
): Promise<PutSlot | "damaged" | "newer" | "gone"> {
  const name = parseStoreName(info.name);
  if (name?.kind !== "slot" || info.sizeBytes > slotBytesMax) return "damaged";
  let bytes: Uint8Array;
  try {
    bytes = await store.get(info.name, undefined, signal);
  } catch (error) {
    if (isKluisError(error, "ObjectNotFound")) return "gone";
    throw error;
  }
  if (!bytesEqual(createHash("sha256").update(bytes).digest(), name.sha256)) return "damaged";
  try {
    return { hash: name.sha256, slot: parseKeySlot(bytes) };
  } catch (error) {
    if (isKluisError(error, "StoreFormatNewer")) return "newer";
    if (isKluisError(error, "ObjectCorrupt")) return "damaged";
    throw error;
  }
}
