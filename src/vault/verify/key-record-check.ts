/** Checks key records, and the slots that the newest one lists; needs no key. */
import { toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { type KeyRecord, keyRecordDamage } from "#formats/key-record.ts";
import { keyRecordName, parseStoreName, slotName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { readKeyRecords } from "#vault/keys/records.ts";
import { type Damage, verdictOf } from "#vault/verify/damage.ts";
import { readChecked } from "#vault/verify/read-object.ts";

interface KeyPlace {
  readonly store: ObjectStore;
  readonly vaultId: Uint8Array;
  readonly signal?: AbortSignal | undefined;
}

/** What a listing of the store and its inventory say. */
export interface ListedKeys {
  readonly names: Iterable<string>;
  /** The newest key epoch under which a part of the inventory was written; 0 where there is none. */
  readonly epoch: number;
}

/**
 * Notes every key record among `names` that is not whole or not in its place; the newest one or its copy
 * where only the other is there; numbers that have neither; slots that the newest lists and that are gone.
 * Errors: those of the store that are no object's own.
 */
export async function checkKeyRecords(
  place: KeyPlace,
  listed: ListedKeys,
  damage: Damage,
): Promise<void> {
  const { store, vaultId, signal } = place;
  const vault = toHex(vaultId);
  const numbers = new Set<number>();
  for (const name of listed.names) {
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "key-record") continue;
    if (parsed.vault === vault) numbers.add(parsed.number);
    try {
      const reason = keyRecordDamage(await store.get(name, undefined, signal), parsed);
      if (reason !== undefined) damage.addObject({ name, verdict: "damaged", reason });
    } catch (error) {
      signal?.throwIfAborted();
      if (!isKluisError(error)) throw error;
      damage.addObject({ name, verdict: verdictOf(error), reason: error.message });
    }
  }
  const { missing, newest } = await readKeyRecords(store, vaultId, signal);
  const reason = "the newest key record is there once, not twice";
  for (const name of missing) damage.addObject({ name, verdict: "damaged", reason });
  if (newest === undefined) return;
  noteGaps(newest, { vault, numbers, epoch: listed.epoch }, damage);
  await checkSlots(place, newest, damage);
}

/** Records are numbered from 1 and never removed, and one comes before what is written under its epoch. */
function noteGaps(
  newest: KeyRecord,
  seen: { readonly vault: string; readonly numbers: ReadonlySet<number>; readonly epoch: number },
  damage: Damage,
): void {
  const note = (number: number, reason: string): void =>
    damage.addObject({
      name: keyRecordName({ vault: seen.vault, number }),
      verdict: "damaged",
      reason,
    });
  for (let number = 1; number < newest.number; number++) {
    if (seen.numbers.has(number)) continue;
    note(number, "later ones are in the store, and it is not");
  }
  if (seen.epoch <= newest.epoch) return;
  const reason = `the inventory was written under key epoch ${seen.epoch}, which no record in the store has`;
  note(newest.number + 1, reason);
}

/** Notes slots that a record lists and that are not in the store, or not as they were put. */
async function checkSlots(place: KeyPlace, record: KeyRecord, damage: Damage): Promise<void> {
  const { store, vaultId, signal } = place;
  const gone: string[] = [];
  for (const { slot } of record.slots) {
    const name = slotName(slot);
    const read = await readChecked({ store, signal }, name, slot);
    if (read.kind === "missing") gone.push(name);
    else if (read.verdict !== "sound") {
      damage.addObject({ name, verdict: read.verdict, reason: read.reason });
    }
  }
  if (gone.length === 0) return;
  // A change of keys removes slots once its record is there.
  const { newest } = await readKeyRecords(store, vaultId, signal);
  if (newest?.number !== record.number) return;
  const reason = "the newest key record lists it, and it is not in the store";
  for (const name of gone) damage.addObject({ name, verdict: "damaged", reason });
}
