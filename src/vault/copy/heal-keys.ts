/**
 * Heals key records and the slots that they list from another copy of a vault; docs/design/redundancy.md.
 *
 * A record is put twice, so most damage is healed from its own twin, which whoever opens the vault believes
 * as it is. What comes from the other store has the MAC of the vault's keys: a record that somebody else
 * made would close the vault to everybody.
 */
import { bytesEqual, toHex } from "#base/bytes.ts";
import { type KeyRecord, parseKeyRecord } from "#formats/key-record.ts";
import {
  keyRecordName,
  keyRecordPrefix,
  keyRecordsMax,
  parseStoreName,
  slotName,
} from "#formats/store-names.ts";
import type { HealedObject, HealOptions } from "#vault/copy-report.ts";
import { copyObject, readSound } from "#vault/copy/copy-objects.ts";
import { isOwnRecord, readKeyRecords } from "#vault/keys/records.ts";

/** What healing keys needs of the healing that it is part of. */
export interface KeyHealing {
  /** Removes what is damaged, or not, and puts what is good. */
  readonly replace: (name: string, good: Uint8Array, was: HealedObject["was"]) => Promise<void>;
  readonly onHealed: (object: HealedObject) => void;
  readonly onUnhealed: (name: string, reason: string) => void;
}

type Place = Pick<HealOptions, "store" | "copy" | "keys" | "signal">;

/** Heals every record up to the highest that `store` lists, then the slots that the newest one lists. */
export async function healKeys(place: Place, healing: KeyHealing): Promise<void> {
  const numbers = await listNumbers(place);
  const highest = Math.max(0, ...numbers.keys());
  for (const [number, names] of numbers) {
    await healRecord(place, healing, { number, names, isNewest: number === highest });
  }
  await bringSlots(place, healing);
}

/** Names by number, ascending; gaps count as numbers without a name. */
async function listNumbers({ store, keys, signal }: Place): Promise<Map<number, Set<string>>> {
  const listed: { number: number; name: string }[] = [];
  for await (const { name } of store.list(keyRecordPrefix, signal)) {
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "key-record" || parsed.vault !== toHex(keys.vaultId)) continue;
    listed.push({ number: parsed.number, name });
  }
  const highest = listed.reduce((most, { number }) => Math.max(most, number), 0);
  const numbers = new Map<number, Set<string>>();
  for (let number = 1; number <= Math.min(highest, keyRecordsMax); number++) {
    numbers.set(number, new Set());
  }
  for (const { number, name } of listed) numbers.get(number)?.add(name);
  return numbers;
}

/**
 * What is missing first, then the copy, then the record: at every moment one of the two is listed, so
 * another host sees the number taken, whenever this breaks off.
 */
async function healRecord(
  place: Place,
  healing: KeyHealing,
  record: {
    readonly number: number;
    readonly names: ReadonlySet<string>;
    readonly isNewest: boolean;
  },
): Promise<void> {
  const { store, copy, keys, signal } = place;
  const id = { vault: toHex(keys.vaultId), number: record.number };
  const both = [keyRecordName(id, { isCopy: true }), keyRecordName(id)];
  const bad: { name: string; was: HealedObject["was"]; reason: string }[] = [];
  let good: Uint8Array | undefined;
  for (const name of both) {
    const read = record.names.has(name) ? await readSound(store, name, signal) : undefined;
    if (read === undefined) bad.push({ name, was: "missing", reason: "it is missing" });
    else if ("bytes" in read) good ??= read.bytes;
    else if (read.kind === "damaged") bad.push({ name, was: "damaged", reason: read.reason });
  }
  if (bad.length === 0) return;
  for (const name of good === undefined ? both.toReversed() : []) {
    const read = await readSound(copy, name, signal);
    if ("bytes" in read && isOwn(place, record.number, read.bytes)) good ??= read.bytes;
  }
  bad.sort((a, b) => Number(a.was === "damaged") - Number(b.was === "damaged"));
  for (const { name, was, reason } of bad) {
    if (good !== undefined) await healing.replace(name, good, was);
    else healing.onUnhealed(name, `${reason}, and neither store has it whole: ${lossOf(record)}`);
  }
}

function isOwn({ keys }: Place, number: number, bytes: Uint8Array): boolean {
  const record: KeyRecord = parseKeyRecord(bytes);
  return record.number === number && isOwnRecord(record, keys);
}

function lossOf({
  number,
  isNewest,
}: {
  readonly number: number;
  readonly isNewest: boolean;
}): string {
  if (!isNewest) return "nothing is lost, for the newest record lists every key";
  return (
    `keys that change ${number} added open the vault no more, those that it removed do, and ` +
    "what was sealed under an epoch that began with it cannot be read"
  );
}

/** A slot that the newest record lists was not removed on purpose. */
async function bringSlots(place: Place, healing: KeyHealing): Promise<void> {
  const { store, copy, signal } = place;
  for (const hash of await newestSlots(place)) {
    const name = slotName(hash);
    if ((await store.stat(name, signal)) !== undefined) continue;
    const outcome = await copyObject({ from: copy, to: store, signal }, { name });
    const isListed = (await newestSlots(place)).some((slot) => bytesEqual(slot, hash));
    if (!isListed) {
      // Somebody removed this key meanwhile: its slot must not come back.
      await store.remove(name, signal);
    } else if (outcome.kind === "copied") healing.onHealed({ name, was: "missing" });
    else {
      const why = "the newest key record lists it, and neither store has it";
      healing.onUnhealed(name, `${why}: the key that it belongs to opens this vault no more`);
    }
  }
}

async function newestSlots({ store, keys, signal }: Place): Promise<readonly Uint8Array[]> {
  const { newest } = await readKeyRecords(store, keys.vaultId, signal);
  if (newest === undefined || !isOwnRecord(newest, keys)) return [];
  return newest.slots.map(({ slot }) => slot);
}
