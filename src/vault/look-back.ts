/**
 * Compares a store with what this host has seen in it: whether it was set back to an older state, or has
 * lost its newest objects; docs/design/verify-and-heal.md.
 */
import { createHash } from "node:crypto";

import { allEnded } from "#base/all-ended.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { encodeKeyRecord, parseKeyRecord } from "#formats/key-record.ts";
import { ledgerGenerationMax } from "#formats/ledger-part.ts";
import { keyRecordName, ledgerName } from "#formats/store-names.ts";
import {
  encodeVaultMemory,
  type NumberedObject,
  parseVaultMemory,
  rememberedPartsMax,
  type VaultMemory,
} from "#formats/vault-memory.ts";
import {
  type LedgerEntry,
  type LedgerPlace,
  listLedger,
  readLedger,
  readPart,
} from "#vault/inventory/ledger.ts";
import { readKeyRecords, type RecordListing } from "#vault/keys/records.ts";
import type { BadObject } from "#vault/verify/damage.ts";

/** Parts that are looked at, where the newest of them are damaged. */
const partsReadMax = 4 * rememberedPartsMax;

/** An object that this host has seen, that nobody has replaced, and that is gone or another now. */
export type SetBackObject = BadObject;

/** A vault that a host remembers. Without keys the parts of the inventory may be anybody's. */
export type RememberedVault = LedgerPlace;

/** What files of a host say of a store. */
export interface ReadMemory {
  readonly setBack: readonly SetBackObject[];
  /** What is to be kept in place of all files, where it is not what the only one holds. */
  readonly content: Uint8Array | undefined;
  /** Why files cannot be read; they remember nothing any more. */
  readonly unreadable: readonly KluisError[];
}

/** {@link lookBack} with what the host has kept in files, one for each process that wrote at once. */
export async function lookBackAt(
  vault: RememberedVault,
  files: readonly Uint8Array[],
): Promise<ReadMemory> {
  const remembered: VaultMemory[] = [];
  const unreadable: KluisError[] = [];
  for (const file of files) {
    try {
      remembered.push(parseVaultMemory(file));
    } catch (error) {
      if (!isKluisError(error)) throw error;
      unreadable.push(error);
    }
  }
  const { setBack, memory } = await lookBack(vault, remembered);
  const content = encodeVaultMemory(memory);
  const [only] = files;
  const isKnown = files.length === 1 && only !== undefined && bytesEqual(only, content);
  return { setBack, content: isKnown ? undefined : content, unreadable };
}

/** What a store is, beside what it was. */
export interface LookBack {
  /** Objects that this host has seen, that nobody has replaced, and that are gone or others now. */
  readonly setBack: readonly SetBackObject[];
  /** What is to be remembered of the store as it is now. */
  readonly memory: VaultMemory;
}

/**
 * Looks whether all that was remembered is there still, or was replaced by what is there. Without keys
 * a forged part may stand for one that is gone. Errors: those of the store.
 */
export async function lookBack(
  place: LedgerPlace,
  remembered: readonly VaultMemory[],
): Promise<LookBack> {
  const reading = readKeyRecords(place.store, place.vaultId, place.signal);
  const listing = listLedger(place, "inventory");
  await Promise.allSettled([reading, listing]);
  const [records, entries] = [await reading, await listing];
  const known = remembered.flatMap(({ parts }) => parts);
  const setBack = await findLostParts(place, entries, known);
  for (const { record } of remembered) {
    const lost = record === undefined ? undefined : await findLostRecord(place, records, record);
    if (lost !== undefined) setBack.push(lost);
  }
  const { newest } = records;
  const memory: VaultMemory = {
    vaultId: place.vaultId,
    parts: await chooseParts(place, entries, known),
    ...(newest === undefined
      ? {}
      : { record: { number: newest.number, sha256: hashOf(encodeKeyRecord(newest)) } }),
  };
  return { setBack, memory };
}

/** Parts that are neither there nor replaced. */
async function findLostParts(
  place: LedgerPlace,
  entries: readonly LedgerEntry[],
  known: readonly NumberedObject[],
): Promise<BadObject[]> {
  const there = new Set(entries.map(({ sha256 }) => toHex(sha256)));
  const gone = known.filter(({ sha256 }) => !there.has(toHex(sha256)));
  if (gone.length === 0) return [];
  const { parts, bad } = await readLedger(place, "inventory");
  let highest = Math.max(0, ...entries.map(({ number }) => number));
  let oldest = 0;
  for (const { number, sha256, lines } of parts) {
    highest = Math.max(highest, number);
    there.add(toHex(sha256));
    for (const line of lines) {
      if (line.kind !== "replaces") continue;
      there.add(line.sha256);
      oldest = Math.max(oldest, line.generation);
    }
  }
  for (const { name } of bad) there.add(name.slice(-2 * hashBytes));
  // Lines about what was replaced live for some generations only.
  const isForgotten = ({ number }: NumberedObject): boolean =>
    number <= highest && oldest >= ledgerGenerationMax;
  const lost = gone.filter((part) => !there.has(toHex(part.sha256)) && !isForgotten(part));
  return lost.map(({ number, sha256 }) => {
    const reason = "this host has seen it, no other part replaces it, and it is not in the store";
    return { name: ledgerName("inventory", number, sha256), verdict: "damaged", reason };
  });
}

const hashBytes = 32;

/** Records are never removed, and none takes the place of another. */
async function findLostRecord(
  place: LedgerPlace,
  records: RecordListing,
  seen: NumberedObject,
): Promise<BadObject | undefined> {
  const id = { vault: toHex(place.vaultId), number: seen.number };
  const name = keyRecordName(id);
  if (records.highest < seen.number) {
    const reason = `this host has seen it, and the newest in the store is number ${records.highest}`;
    return { name, verdict: "damaged", reason };
  }
  let isOther = false;
  for (const one of [name, keyRecordName(id, { isCopy: true })]) {
    const bytes = await readRecord(place, one);
    if (bytes === undefined) continue;
    if (bytesEqual(hashOf(bytes), seen.sha256)) return undefined;
    isOther = true;
  }
  // What is damaged, or gone from the middle, is told by verification.
  if (!isOther) return undefined;
  return { name, verdict: "damaged", reason: "it is another one than this host has seen" };
}

/** `undefined` where there is none, or it is damaged. */
async function readRecord(place: LedgerPlace, name: string): Promise<Uint8Array | undefined> {
  try {
    const bytes = await place.store.get(name, undefined, place.signal);
    parseKeyRecord(bytes);
    return bytes;
  } catch (error) {
    const isBad = isKluisError(error, "ObjectNotFound") || isKluisError(error, "ObjectCorrupt");
    if (isBad) return undefined;
    throw error;
  }
}

/** The newest parts that are whole; those that are known were looked at before. */
async function chooseParts(
  place: LedgerPlace,
  entries: readonly LedgerEntry[],
  known: readonly NumberedObject[],
): Promise<readonly NumberedObject[]> {
  const seen = new Set(known.map(({ sha256 }) => toHex(sha256)));
  const isWhole = async (entry: LedgerEntry): Promise<boolean> => {
    if (seen.has(toHex(entry.sha256))) return true;
    const part = await readPart(place, "inventory", entry);
    return part !== undefined && !("error" in part);
  };
  const newest = entries.slice(-partsReadMax).toReversed();
  const chosen: NumberedObject[] = [];
  for (let at = 0; at < newest.length; at += rememberedPartsMax) {
    const batch = newest.slice(at, at + rememberedPartsMax);
    const whole = await allEnded(batch.map(isWhole));
    for (const [index, { number, sha256 }] of batch.entries()) {
      if (whole[index] === true) chosen.push({ number, sha256 });
    }
    if (chosen.length >= rememberedPartsMax) break;
  }
  return chosen.slice(0, rememberedPartsMax);
}

function hashOf(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(createHash("sha256").update(bytes).digest());
}
