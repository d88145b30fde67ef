/** Key records of a store: sealing one, reading the newest, opening it; docs/design/keys.md. */
import { createHmac, hkdfSync, timingSafeEqual } from "node:crypto";

import { present } from "#base/assert.ts";
import { bytesEqual, compareBytes, toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import {
  encodeKeyRecord,
  encodeRecordBody,
  type KeyRecord,
  keyRecordBytesMax,
  parseKeyRecord,
  type RecordBody,
} from "#formats/key-record.ts";
import {
  keyRecordName,
  keyRecordPrefix,
  keyRecordsMax,
  parseStoreName,
} from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { encodeKeyEpochs, type KeyRing, parseKeyEpochs } from "#vault/keys/key-ring.ts";
import type { UnsealedSlot } from "#vault/keys/seal-slot.ts";
import {
  type BoxPlace,
  openBox,
  publicKeyOf,
  sealBox,
  toPrivateKey,
} from "#vault/keys/slot-keys.ts";

/** Most objects under `ring/` that are looked at: those of creations that did not finish stay. */
export const recordObjectsMax = 4 * keyRecordsMax;

const keyBytes = 32;

/** A slot that a record is to list. */
export interface ListedSlot {
  /** SHA-256 of the slot, 32 bytes. */
  readonly hash: Uint8Array;
  readonly publicKey: Uint8Array;
}

/** What lies under `ring/` for one vault. */
export interface RecordListing {
  /** The newest that can be read. */
  readonly newest: KeyRecord | undefined;
  /** The highest number that any name has; 0 where there is none. Above `newest` all are damaged. */
  readonly highest: number;
  /** Names of damaged objects among those that were read: the newest and its copy, or more. */
  readonly damaged: readonly string[];
  /** The name of the newest or of its copy where there is only the other one. */
  readonly missing: readonly string[];
}

/** Seals record `number` with the ring boxed for every slot. `ring` holds the epoch that counts from now on. */
export function sealKeyRecord(
  ring: KeyRing,
  change: { readonly number: number; readonly slots: readonly ListedSlot[] },
  random: RandomSource,
): Uint8Array {
  const { vaultId, epochs } = ring;
  const { number } = change;
  const sender = toPrivateKey(random.bytes(keyBytes));
  const place = { vaultId, number, senderKey: publicKeyOf(sender), ringSecret: ringSecretOf(ring) };
  const plain = encodeKeyEpochs(epochs);
  const slots = change.slots
    .map(({ hash, publicKey }) => {
      return { slot: hash, publicKey, box: sealBox(plain, sender, { ...place, publicKey }) };
    })
    .sort((a, b) => compareBytes(a.slot, b.slot));
  plain.fill(0);
  const { epoch } = present(epochs.at(-1), "a key ring holds an epoch");
  const body: RecordBody = { vaultId, number, epoch, senderKey: place.senderKey, slots };
  return encodeKeyRecord({ ...body, mac: macOf(body, ring) });
}

/**
 * The ring of now, for whoever opened a slot; `undefined` where the record does not list it.
 *
 * Errors: ObjectCorrupt (never) where nobody who had the ring can have made the record.
 */
export function openKeyRecord(
  record: KeyRecord,
  hash: Uint8Array,
  slot: UnsealedSlot,
): KeyRing | undefined {
  const listed = record.slots.find((candidate) => bytesEqual(candidate.slot, hash));
  if (listed === undefined) return undefined;
  const { vaultId, number, senderKey } = record;
  const { publicKey } = listed;
  const place: BoxPlace = {
    vaultId,
    number,
    senderKey,
    publicKey,
    ringSecret: ringSecretOf(slot.ring),
  };
  const plain = openBox(listed.box, slot.privateKey, place);
  if (plain === undefined) throw forged(record, "its box for this key does not open");
  const ring: KeyRing = { vaultId, epochs: parseKeyEpochs(plain) };
  plain.fill(0);
  if (!continues(ring, slot.ring)) throw forged(record, "its key ring is not that of this vault");
  const newest = ring.epochs.at(-1)?.epoch;
  if (newest !== record.epoch || !timingSafeEqual(macOf(record, ring), record.mac)) {
    throw forged(record, "its MAC is wrong");
  }
  return ring;
}

/** Whether somebody who held the ring at the record's epoch made it. False also where that epoch is not at hand. */
export function isOwnRecord(record: KeyRecord, ring: KeyRing): boolean {
  if (!bytesEqual(record.vaultId, ring.vaultId)) return false;
  const epochs = ring.epochs.filter(({ epoch }) => epoch <= record.epoch);
  if (epochs.at(-1)?.epoch !== record.epoch) return false;
  return timingSafeEqual(macOf(record, { vaultId: ring.vaultId, epochs }), record.mac);
}

/** Reads what counts under `ring/`; errors: StoreFormatNewer (after-change); those of the store. */
export async function readKeyRecords(
  store: ObjectStore,
  vaultId: Uint8Array,
  signal?: AbortSignal,
): Promise<RecordListing> {
  const vault = toHex(vaultId);
  const numbers = await listNumbers(store, vault, signal);
  const highest = Math.max(0, ...numbers.keys());
  const damaged: string[] = [];
  for (const number of [...numbers.keys()].sort((a, b) => b - a)) {
    const names = present(numbers.get(number), "a number that was listed");
    const id = { vault, number };
    const [name, copy] = [keyRecordName(id), keyRecordName(id, { isCopy: true })];
    const missing = [name, copy].filter((one) => !names.includes(one));
    const records: KeyRecord[] = [];
    for (const present of [name, copy].filter((one) => names.includes(one))) {
      const record = await readRecord(store, present, signal);
      if (record?.number === number && toHex(record.vaultId) === vault) records.push(record);
      else damaged.push(present);
    }
    const [newest] = records;
    if (newest !== undefined) return { newest, highest, damaged, missing };
  }
  return { newest: undefined, highest, damaged, missing: [] };
}

/** Names by number. */
async function listNumbers(
  store: ObjectStore,
  vault: string,
  signal: AbortSignal | undefined,
): Promise<Map<number, string[]>> {
  const numbers = new Map<number, string[]>();
  let objects = 0;
  for await (const { name } of store.list(keyRecordPrefix, signal)) {
    objects++;
    if (objects > recordObjectsMax) {
      throw new KluisError(
        "ObjectCorrupt",
        `Cannot read the key records: there are more than ${recordObjectsMax} objects under ring/`,
      );
    }
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "key-record" || parsed.vault !== vault) continue;
    numbers.set(parsed.number, [...(numbers.get(parsed.number) ?? []), name]);
  }
  return numbers;
}

/** `undefined` where it is damaged. */
async function readRecord(
  store: ObjectStore,
  name: string,
  signal: AbortSignal | undefined,
): Promise<KeyRecord | undefined> {
  try {
    const info = await store.stat(name, signal);
    if (info === undefined || info.sizeBytes > keyRecordBytesMax) return undefined;
    return parseKeyRecord(await store.get(name, undefined, signal));
  } catch (error) {
    if (isKluisError(error, "ObjectCorrupt") || isKluisError(error, "ObjectNotFound")) {
      return undefined;
    }
    throw error;
  }
}

function continues(ring: KeyRing, older: KeyRing): boolean {
  return older.epochs.every(({ epoch, masterKey }) => {
    const same = ring.epochs.find((candidate) => candidate.epoch === epoch);
    return same !== undefined && timingSafeEqual(same.masterKey, masterKey);
  });
}

function macOf(body: RecordBody, ring: KeyRing): Uint8Array {
  const { masterKey } = present(ring.epochs.at(-1), "a key ring holds an epoch");
  const key = derive(masterKey, ring.vaultId, "kluis/v1/key-record/mac");
  return createHmac("sha256", key).update(encodeRecordBody(body)).digest();
}

/** What goes into the key of each box, so that only holders of the first epoch can make one. */
function ringSecretOf(ring: KeyRing): Uint8Array {
  const { masterKey } = present(ring.epochs[0], "a key ring holds an epoch");
  return derive(masterKey, ring.vaultId, "kluis/v1/key-record/secret");
}

function derive(masterKey: Uint8Array, vaultId: Uint8Array, info: string): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", masterKey, vaultId, info, keyBytes));
}

function forged({ number, vaultId }: KeyRecord, reason: string): KluisError {
  const object = keyRecordName({ vault: toHex(vaultId), number });
  return new KluisError("ObjectCorrupt", `Cannot use key record "${object}": ${reason}`, {
    details: { object },
  });
}
