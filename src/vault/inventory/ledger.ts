/**
 * The parts under `inventory/` and `findings/` of a store: listing, reading and putting them;
 * docs/design/verify-and-heal.md.
 *
 * Parts are immutable and their names never come again, so any number of sessions, deleters and
 * collectors put parts without knowing of each other.
 */
import { createHash, createHmac } from "node:crypto";

import { allEnded } from "#base/all-ended.ts";
import { present } from "#base/assert.ts";
import { bytesEqual, concatBytes, toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import {
  encodeLedgerBody,
  encodeLedgerMac,
  type LedgerLine,
  ledgerLinesMax,
  ledgerNumberMax,
  ledgerPartBytesMax,
  type ParsedLedgerPart,
  parseLedgerPart,
} from "#formats/ledger-part.ts";
import { type LedgerFolder, ledgerName, parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { assertContentName } from "#vault/container/container-reader.ts";
import { currentEpoch, deriveLedgerKey, type VaultKeys } from "#vault/keys/vault-keys.ts";

/** Lines that a part holds beside those of its head. */
export const linesPerPart = ledgerLinesMax - 1024;
/** Parts before it that a new part names. */
const afterMax = 8;
/** Parts that are read at once. */
const readsInFlight = 16;
/** Parts of a folder that a store may list: those of some 100,000 backups that nobody has put together. */
export const ledgerPartsMax = 512 * 1024;
/** What they may have together: five million lines, ten times those of 20 TiB. */
export const ledgerBytesMax = 512 * 1024 * 1024;
/** Listings that a read may need while others replace parts under it. */
const readRoundsMax = 8;

/** A part that was listed. */
export interface LedgerEntry {
  readonly name: string;
  readonly number: number;
  readonly sha256: Uint8Array;
  readonly sizeBytes: number;
}

/** Where parts are; keys are needed to put them, and to tell forged ones. */
export interface LedgerPlace {
  readonly store: ObjectStore;
  readonly vaultId: Uint8Array;
  readonly keys: VaultKeys | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Where parts are put. */
export interface LedgerDeps {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly signal?: AbortSignal | undefined;
}

/** A part that was listed and cannot be used. */
export interface BadPart {
  readonly name: string;
  readonly error: KluisError;
}

/** Every part of a folder that can be read, and what is wrong with the others. */
export interface LedgerContent {
  readonly parts: readonly (ParsedLedgerPart & LedgerEntry)[];
  readonly bad: readonly BadPart[];
  /** Parts that others name, that are gone, and that none has replaced; hexadecimal. */
  readonly missing: readonly string[];
}

/**
 * The parts of a folder by number, then by name. Errors: those of the store; ObjectCorrupt (never) where it
 * lists more than {@link ledgerPartsMax}, or {@link ledgerBytesMax} of parts that can be read.
 */
export async function listLedger(
  place: Pick<LedgerPlace, "store" | "signal">,
  folder: LedgerFolder,
): Promise<readonly LedgerEntry[]> {
  const entries: LedgerEntry[] = [];
  let bytes = 0;
  for await (const { name, sizeBytes } of place.store.list(`${folder}/`, place.signal)) {
    const parsed = parseStoreName(name);
    if (parsed?.kind !== folder) continue;
    if (sizeBytes <= ledgerPartBytesMax) bytes += sizeBytes;
    if (entries.length === ledgerPartsMax) throw tooMuch(folder, `${ledgerPartsMax} parts`);
    if (bytes > ledgerBytesMax) throw tooMuch(folder, `${ledgerBytesMax} bytes`);
    entries.push({ name, sizeBytes, number: parsed.number, sha256: parsed.sha256 });
  }
  return entries.toSorted((a, b) => a.number - b.number || (a.name < b.name ? -1 : 1));
}

/**
 * Reads every part of a folder. Parts that others replace meanwhile are read as what replaced them.
 *
 * Errors: those of the store, also where a part could not be read just now; a part that is damaged
 * is told in the result.
 */
export async function readLedger(place: LedgerPlace, folder: LedgerFolder): Promise<LedgerContent> {
  const known = new Map<string, ParsedLedgerPart | BadPart>();
  for (let round = 0; round < readRoundsMax; round++) {
    const entries = await listLedger(place, folder);
    // What a store lists once and never again is not kept.
    const listed = new Set(entries.map(({ name }) => name));
    for (const name of known.keys()) if (!listed.has(name)) known.delete(name);
    const unread = entries.filter(({ name }) => !known.has(name));
    for (let at = 0; at < unread.length; at += readsInFlight) {
      const batch = unread.slice(at, at + readsInFlight);
      const read = await allEnded(batch.map((entry) => readPart(place, folder, entry)));
      for (const [index, part] of read.entries()) {
        if (part !== undefined) known.set(present(batch[index], "a part was listed").name, part);
      }
    }
    if (entries.every(({ name }) => known.has(name))) return toContent(entries, known);
  }
  throw new KluisError("Busy", `Cannot read "${folder}": its parts are replaced again and again`);
}

/** A line of a part to be put, which is told the part's number. */
export type NewLine = (number: number) => LedgerLine;

/**
 * Puts lines, in as many parts as they take, in their order; durable on return.
 *
 * @param after The newest parts, where the caller knows them. Else they are listed: a part that was
 *   compacted away long ago must not be named by a new one.
 */
export async function putLedgerLines(
  deps: LedgerDeps,
  folder: LedgerFolder,
  what: { readonly lines: readonly NewLine[]; readonly after?: readonly LedgerEntry[] },
): Promise<readonly LedgerEntry[]> {
  const put: LedgerEntry[] = [];
  for (let at = 0; at < what.lines.length; at += linesPerPart) {
    const after = put.length > 0 ? put : (what.after ?? (await listLedger(deps, folder)));
    const slice = what.lines.slice(at, at + linesPerPart);
    const lines = (number: number): LedgerLine[] => slice.map((line) => line(number));
    put.push(await putLedgerPart(deps, folder, { after, lines }));
  }
  return put;
}

/** The lines by which a new part takes over what `parts` say. */
export function replacing(parts: readonly Pick<LedgerEntry, "sha256">[]): LedgerLine[] {
  return parts.map(({ sha256 }) => {
    return { kind: "replaces", generation: 0, sha256: toHex(sha256) };
  });
}

/**
 * Puts a part with these lines; durable on return. Its number is above those in `after`, which are
 * the newest parts that the caller knows of.
 */
async function putLedgerPart(
  deps: LedgerDeps,
  folder: LedgerFolder,
  part: {
    readonly after: readonly Pick<LedgerEntry, "number" | "sha256">[];
    readonly lines: (number: number) => readonly LedgerLine[];
  },
): Promise<LedgerEntry> {
  const { store, keys, signal } = deps;
  const newest = part.after.slice(-afterMax);
  const number = Math.max(0, ...newest.map((entry) => entry.number)) + 1;
  if (number > ledgerNumberMax) {
    throw new KluisError(
      "Internal",
      `Cannot number a part of "${folder}": there is no number left`,
    );
  }
  const after = newest.map(({ sha256 }) => ({ kind: "after" as const, sha256: toHex(sha256) }));
  const lines = [...after, ...part.lines(number)];
  const body = encodeLedgerBody({ folder, vaultId: keys.vaultId, number, lines });
  const epoch = currentEpoch(keys);
  const bytes = concatBytes([body, encodeLedgerMac(epoch, computeMac(keys, epoch, body))]);
  const sha256 = new Uint8Array(createHash("sha256").update(bytes).digest());
  const name = ledgerName(folder, number, sha256);
  await store.put(name, [bytes], signal);
  return { name, number, sha256, sizeBytes: bytes.byteLength };
}

/** Reads one part that was listed; `undefined` where somebody has removed it since. Errors: those of the store. */
export async function readPart(
  place: LedgerPlace,
  folder: LedgerFolder,
  entry: LedgerEntry,
): Promise<ParsedLedgerPart | BadPart | undefined> {
  const { store, signal } = place;
  try {
    if (entry.sizeBytes > ledgerPartBytesMax) throw partError(entry.name, "it is too long");
    const range = { offsetBytes: 0, lengthBytes: entry.sizeBytes };
    const bytes = await store.get(entry.name, range, signal);
    assertContentName(bytes, entry.sha256, entry.name);
    const part = parseLedgerPart(bytes, entry.name);
    assertPlace(place, folder, { entry, part });
    return part;
  } catch (error) {
    signal?.throwIfAborted();
    if (isKluisError(error, "ObjectNotFound")) return undefined;
    const isBad = isKluisError(error, "ObjectCorrupt") || isKluisError(error, "KeyWrong");
    if (!isBad) throw error;
    return { name: entry.name, error };
  }
}

function assertPlace(
  place: LedgerPlace,
  folder: LedgerFolder,
  read: { readonly entry: LedgerEntry; readonly part: ParsedLedgerPart },
): void {
  const { entry, part } = read;
  const isHere = part.folder === folder && part.number === entry.number;
  if (!isHere) throw partError(entry.name, "it was put under another name");
  if (!bytesEqual(part.vaultId, place.vaultId)) {
    throw partError(entry.name, "it belongs to another vault");
  }
  if (place.keys === undefined) return;
  if (bytesEqual(computeMac(place.keys, part.epoch, part.body), part.mac)) return;
  throw partError(entry.name, "its MAC is wrong: nobody with the key has written it");
}

function toContent(
  entries: readonly LedgerEntry[],
  known: ReadonlyMap<string, ParsedLedgerPart | BadPart>,
): LedgerContent {
  const parts: (ParsedLedgerPart & LedgerEntry)[] = [];
  const bad: BadPart[] = [];
  const named = new Set<string>();
  const accounted = new Set(entries.map(({ sha256 }) => toHex(sha256)));
  for (const entry of entries) {
    const part = known.get(entry.name);
    if (part === undefined) continue;
    if ("error" in part) {
      bad.push(part);
      continue;
    }
    parts.push({ ...part, ...entry });
    for (const line of part.lines) {
      if (line.kind === "after") named.add(line.sha256);
      if (line.kind === "replaces") accounted.add(line.sha256);
    }
  }
  return { parts, bad, missing: [...named].filter((sha256) => !accounted.has(sha256)) };
}

/** Keys of MACs by epoch: thousands of parts are read with one. */
const macKeys = new WeakMap<VaultKeys, Map<number, Uint8Array>>();

function computeMac(keys: VaultKeys, epoch: number, body: Uint8Array): Uint8Array {
  const known = macKeys.get(keys) ?? new Map<number, Uint8Array>();
  macKeys.set(keys, known);
  const key = known.get(epoch) ?? deriveLedgerKey(keys, epoch);
  known.set(epoch, key);
  return createHmac("sha256", key).update(body).digest();
}

function tooMuch(folder: LedgerFolder, what: string): KluisError {
  return new KluisError(
    "ObjectCorrupt",
    `Cannot read "${folder}": the store lists more than ${what}`,
  );
}

function partError(name: string, reason: string): KluisError {
  return new KluisError("ObjectCorrupt", `Cannot read "${name}": ${reason}`, {
    details: { object: name },
  });
}
