/** From a secret to the key ring of now: slot, then key record; docs/design/keys.md. */
import { bytesEqual } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { KeySecret } from "#vault/key-secret.ts";
import type { KeyRing } from "#vault/keys/key-ring.ts";
import { keyWords } from "#vault/keys/lost-access.ts";
import { openKeyRecord, readKeyRecords, type RecordListing } from "#vault/keys/records.ts";
import { mayOpen, openSlot, type UnsealedSlot } from "#vault/keys/seal-slot.ts";
import { listKeySlots, type NamedSlot, type SlotListing } from "#vault/keys/slots.ts";

/** Times that the slots are read anew because keys changed meanwhile. */
const openTriesMax = 4;

/** A ring that was opened, and what it was opened with. */
export interface OpenedRing {
  /** The ring of now. */
  readonly ring: KeyRing;
  /** The slot that opened. Its ring is that of its making. */
  readonly slot: NamedSlot;
  readonly unsealed: UnsealedSlot;
  readonly records: RecordListing;
}

/**
 * Tries `secret` on the slots of its type that are valid until one opens. Where no key record can be
 * read, every slot counts, and the ring is that of the slot.
 *
 * Errors: KeyWrong (after-change) where none does; ObjectCorrupt (never) or StoreFormatNewer
 * (after-change) where the only slots that it might open are damaged or newer; those of the store
 * and of the key provider.
 */
export async function openKeyRing(
  store: ObjectStore,
  vaultId: Uint8Array,
  secret: KeySecret,
  signal?: AbortSignal,
): Promise<OpenedRing> {
  for (let tries = openTriesMax; ; tries--) {
    const records = await readKeyRecords(store, vaultId, signal);
    const listing = await listKeySlots(store, vaultId, signal);
    const outcome = await tryToOpen({ records, listing }, secret, signal);
    if (!(outcome instanceof KluisError)) return outcome;
    // Another host may have put a new slot in place of ours between the two listings.
    const { highest } = await readKeyRecords(store, vaultId, signal);
    if (tries === 1 || highest === records.highest) throw outcome;
  }
}

/** The ring, or why no slot opens. */
async function tryToOpen(
  read: { readonly records: RecordListing; readonly listing: SlotListing },
  secret: KeySecret,
  signal: AbortSignal | undefined,
): Promise<OpenedRing | KluisError> {
  const { records, listing } = read;
  const candidates = listing.slots.filter(({ slot }) => mayOpen(slot, secret));
  const valid = candidates.filter(({ hash }) => isListed(records, hash));
  let refusal: KluisError | undefined;
  for (const slot of valid) {
    signal?.throwIfAborted();
    try {
      const unsealed = await openSlot(slot.slot, secret, signal);
      if (unsealed === undefined) continue;
      const { newest } = records;
      const ring =
        newest === undefined ? unsealed.ring : openKeyRecord(newest, slot.hash, unsealed);
      if (ring !== undefined) return { ring, slot, unsealed, records };
    } catch (error) {
      // A provider that refuses one version of its key may still have another.
      if (!isKluisError(error, "KeyDenied")) throw error;
      refusal = error;
    }
  }
  if (refusal !== undefined) return refusal;
  const withdrawn = candidates.filter((candidate) => !valid.includes(candidate));
  if (await opensAny(withdrawn, secret, signal)) return removedError(secret);
  return openingError(listing, secret, candidates.length);
}

/** Whether the newest record lists the slot; yes where there is no record. */
export function isListed({ newest }: RecordListing, hash: Uint8Array): boolean {
  return newest === undefined || newest.slots.some(({ slot }) => bytesEqual(slot, hash));
}

async function opensAny(
  slots: readonly NamedSlot[],
  secret: KeySecret,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  for (const { slot } of slots) {
    signal?.throwIfAborted();
    if ((await openSlot(slot, secret, signal)) !== undefined) return true;
  }
  return false;
}

function removedError({ type }: KeySecret): KluisError {
  const reason = `this ${keyWords[type]} was removed from it, or adding it did not finish`;
  return new KluisError("KeyWrong", `Cannot open the vault: ${reason}`, {
    details: { slotType: type },
  });
}

function openingError(listing: SlotListing, secret: KeySecret, tried: number): KluisError {
  const { damaged, newer, slots } = listing;
  const details = { slotType: secret.type, tried, damaged: damaged.length, newer: newer.length };
  const also = damaged.length === 0 ? "" : ` (key slots that are damaged: ${damaged.length})`;
  if (tried > 0) {
    const reason = `this ${keyWords[secret.type]} opens none of its key slots${also}`;
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
    const reason = `it has no key slot for this ${keyWords[secret.type]}`;
    return new KluisError("KeyWrong", `Cannot open the vault: ${reason}`, { details });
  }
  return new KluisError("ObjectNotFound", "Cannot open the vault: it has no key slot", { details });
}
