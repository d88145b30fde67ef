/** The key slots of a store: adding one, listing them, opening the ring with one. */
import { createHash } from "node:crypto";

import { bytesEqual } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { parseKeySlot, slotBytesMax, type KeySlot } from "#formats/key-slot.ts";
import { parseStoreName, slotName, slotPrefix } from "#formats/store-names.ts";
import type { ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import type { KeySecret } from "#vault/key-secret.ts";
import type { KeyRing } from "#vault/keys/key-ring.ts";
import { openSlot, sealSlot } from "#vault/keys/seal-slot.ts";

/** Most slots of one vault: each is a way in, and each passphrase slot costs time to try. */
export const slotsMax = 32;
/** Most objects under `keys/` that are looked at: slots of creations that did not finish stay. */
export const slotObjectsMax = 256;

/** One slot of a vault. */
export interface NamedSlot {
  readonly name: string;
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

/**
 * Adds a slot that opens `ring` with `secret`, and returns its name; it is durable by then. Any
 * number of writers may add slots at once.
 *
 * Errors: ArgumentInvalid (after-change) where the vault has {@link slotsMax}; those of the store.
 */
export async function addKeySlot(
  store: ObjectStore,
  ring: KeyRing,
  secret: KeySecret,
  options: { readonly random: RandomSource; readonly signal?: AbortSignal },
): Promise<string> {
  const { slots } = await listKeySlots(store, ring.vaultId, options.signal);
  if (slots.length >= slotsMax) {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot add a key: the vault has ${slots.length} key slots already`,
    );
  }
  return putNewSlot(store, ring, secret, options);
}

/** As {@link addKeySlot}, for a vault that has no slots yet; internal to the creation of a vault. */
export async function putNewSlot(
  store: ObjectStore,
  ring: KeyRing,
  secret: KeySecret,
  options: { readonly random: RandomSource; readonly signal?: AbortSignal },
): Promise<string> {
  const bytes = await sealSlot(ring, secret, { random: options.random });
  const name = slotName(createHash("sha256").update(bytes).digest());
  await store.put(name, [bytes], options.signal);
  return name;
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
    if (slot === "damaged") damaged.push(info.name);
    else if (slot === "newer") newer.push(info.name);
    else if (bytesEqual(slot.vaultId, vaultId)) slots.push({ name: info.name, slot });
  }
  return { slots, damaged, newer };
}

/**
 * Tries `secret` on the slots of its type until one opens.
 *
 * Errors: KeyWrong (after-change) where none does; ObjectCorrupt (never) or StoreFormatNewer
 * (after-change) where the only slots that it might open are damaged or newer.
 */
export async function openKeyRing(
  store: ObjectStore,
  vaultId: Uint8Array,
  secret: KeySecret,
  signal?: AbortSignal,
): Promise<KeyRing> {
  const listing = await listKeySlots(store, vaultId, signal);
  const candidates = listing.slots.filter(({ slot }) => slot.type === secret.type);
  for (const { slot } of candidates) {
    signal?.throwIfAborted();
    const ring = await openSlot(slot, secret);
    if (ring !== undefined) return ring;
  }
  throw openingError(listing, secret, candidates.length);
}

async function readSlot(
  store: ObjectStore,
  info: ObjectInfo,
  signal: AbortSignal | undefined,
): Promise<KeySlot | "damaged" | "newer"> {
  const name = parseStoreName(info.name);
  if (name?.kind !== "slot" || info.sizeBytes > slotBytesMax) return "damaged";
  const bytes = await store.get(info.name, undefined, signal);
  if (!bytesEqual(createHash("sha256").update(bytes).digest(), name.sha256)) return "damaged";
  try {
    return parseKeySlot(bytes);
  } catch (error) {
    if (isKluisError(error, "StoreFormatNewer")) return "newer";
    if (isKluisError(error, "ObjectCorrupt")) return "damaged";
    throw error;
  }
}

function openingError(listing: SlotListing, secret: KeySecret, tried: number): KluisError {
  const { damaged, newer, slots } = listing;
  const details = { slotType: secret.type, tried, damaged: damaged.length, newer: newer.length };
  const also = damaged.length === 0 ? "" : ` (key slots that are damaged: ${damaged.length})`;
  if (tried > 0) {
    const reason = `none of its ${secret.type} slots opens with this key${also}`;
    return new KluisError("KeyWrong", `Cannot open the vault: ${reason}`, { details });
  }
  if (newer.length > 0) {
    const reason = "a newer version wrote its key slots";
    return new KluisError("StoreFormatNewer", `Cannot open the vault: ${reason}`, { details });
  }
  if (damaged.length > 0) {
    const reason = `its key slots are damaged: ${damaged.join(", ")}`;
    return new KluisError("ObjectCorrupt", `Cannot open the vault: ${reason}`, { details });
  }
  if (slots.length > 0) {
    const reason = `it has no ${secret.type} slot`;
    return new KluisError("KeyWrong", `Cannot open the vault: ${reason}`, { details });
  }
  return new KluisError("ObjectNotFound", "Cannot open the vault: it has no key slot", { details });
}
