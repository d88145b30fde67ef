/** Names of a vault's objects and ids of recovery points; docs/design/vault-format.md §2. */
import { assert } from "#base/assert.ts";
import { fromHex, toHex } from "#base/bytes.ts";
import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";

/** The object that makes a place a vault. */
export const vaultHeaderName = "vault.json";
/** The object that makes a vault a secondary. */
export const secondaryMarkerName = "secondary.json";
/** Prefixes for listing. */
export const slotPrefix = "keys/";
export const packPrefix = "packs/";
export const mapPackPrefix = "maps/";
export const indexPrefix = "index/";
export const pointPrefix = "points/";
export const leasePrefix = "leases/";
export const condemnedPrefix = "condemned/";
export const decisionPrefix = "decisions/";
export const deletedPrefix = "deleted/";
export const keyRecordPrefix = "ring/";

/** Folders of plaintext parts with a MAC: what was put, and what checks have proved. */
export type LedgerFolder = "inventory" | "findings";

/** Bytes of a name that is the SHA-256 of content. */
export const sha256Bytes = 32;
/** Bytes of the keyed hash that stands for a protected item. */
export const itemHashBytes = 16;

/** What the name of an object says. */
export type StoreName =
  | { readonly kind: "vault-header" }
  | { readonly kind: "secondary-marker" }
  | { readonly kind: "slot" | "pack" | "map-pack" | "index-segment"; readonly sha256: Uint8Array }
  | { readonly kind: "manifest"; readonly item: string; readonly point: string }
  | { readonly kind: "deleted"; readonly item: string; readonly point: string }
  | { readonly kind: "lease"; readonly session: string }
  | { readonly kind: "condemned"; readonly session: string }
  | { readonly kind: "decision"; readonly session: string }
  | { readonly kind: "beat"; readonly session: string; readonly timeMs: number }
  | { readonly kind: LedgerFolder; readonly number: number; readonly sha256: Uint8Array }
  | ({ readonly kind: "key-record"; readonly isCopy: boolean } & KeyRecordId);

/** Which key record of which vault. */
export interface KeyRecordId {
  /** 32 hex digits. */
  readonly vault: string;
  /** From 1 to {@link keyRecordsMax}. */
  readonly number: number;
}

/** Most key records of a vault: each is one change of its keys. */
export const keyRecordsMax = 4096;

/** `keys/<sha256>`. */
export function slotName(sha256: Uint8Array): string {
  return `${slotPrefix}${hashText(sha256)}`;
}

/** `packs/<hh>/<sha256>`. */
export function packName(sha256: Uint8Array): string {
  return fannedName(packPrefix, sha256);
}

/** `maps/<hh>/<sha256>`. */
export function mapPackName(sha256: Uint8Array): string {
  return fannedName(mapPackPrefix, sha256);
}

/** `index/<sha256>`. */
export function indexSegmentName(sha256: Uint8Array): string {
  return `${indexPrefix}${hashText(sha256)}`;
}

/** `inventory/<number>-<sha256>` or `findings/…`; the number, below 2^48, has 12 hex digits. */
export function ledgerName(folder: LedgerFolder, number: number, sha256: Uint8Array): string {
  assert(Number.isSafeInteger(number) && number >= 0 && number < 2 ** 48, "a number of a part");
  return `${folder}/${number.toString(16).padStart(12, "0")}-${hashText(sha256)}`;
}

/** `points/<item>/`: the prefix of all manifests of one item. `item` is 32 hex digits. */
export function itemPrefix(item: string): string {
  assert(itemPattern.test(item), "an item is 32 hex digits");
  return `${pointPrefix}${item}/`;
}

/** `points/<item>/<point>`: a manifest. `item` is 32 hex digits, `point` a recovery point id. */
export function pointName(item: string, point: string): string {
  assert(isPointId(point), "a recovery point id");
  return `${itemPrefix(item)}${point}`;
}

/** `deleted/<item>/<point>`: the mark that hides the manifest of that name. */
export function deletedName(manifestName: string): string {
  assert(manifestName.startsWith(pointPrefix), "the name of a manifest");
  return `${deletedPrefix}${manifestName.slice(pointPrefix.length)}`;
}

/** `leases/<session>`. A session is 16 hex digits. */
export function leaseName(session: string): string {
  return `${leasePrefix}${session}`;
}

/** `leases/<session>.<time>`: a sign of life. */
export function beatName(session: string, timeMs: number): string {
  return `${leasePrefix}${session}.${toTimeText(timeMs)}`;
}

/** `condemned/<session>`. */
export function condemnedName(session: string): string {
  return `${condemnedPrefix}${session}`;
}

/** `decisions/<session>`. */
export function decisionName(session: string): string {
  return `${decisionPrefix}${session}`;
}

/** `ring/<vault>-<number>`, and `-copy` for its copy; the number as 8 hex digits. */
export function keyRecordName(record: KeyRecordId, options = { isCopy: false }): string {
  const { vault, number } = record;
  assert(vaultPattern.test(vault), "a vault id is 32 hex digits");
  assert(number >= 1 && number <= keyRecordsMax, "the number of a key record");
  const text = number.toString(16).padStart(8, "0");
  return `${keyRecordPrefix}${vault}-${text}${options.isCopy ? "-copy" : ""}`;
}

/** The item of {@link pointName}: the keyed hash, 16 bytes, as text. */
export function toItemText(itemHash: Uint8Array): string {
  assert(itemHash.byteLength === itemHashBytes, "an item hash has 16 bytes");
  return toHex(itemHash);
}

/** What `name` says; `undefined` where no vault of this version has such a name. */
export function parseStoreName(name: string): StoreName | undefined {
  if (name === vaultHeaderName) return { kind: "vault-header" };
  if (name === secondaryMarkerName) return { kind: "secondary-marker" };
  const segments = name.split("/");
  return folderParsers.get(segments[0] ?? "")?.(segments);
}

type SegmentsParser = (segments: readonly string[]) => StoreName | undefined;

/** By the first segment of a name. */
const folderParsers: ReadonlyMap<string, SegmentsParser> = new Map([
  ["points", (segments) => parsePointSegments(segments, "manifest")],
  ["deleted", (segments) => parsePointSegments(segments, "deleted")],
  ["leases", parseSessionName],
  ["condemned", parseSessionName],
  ["decisions", parseSessionName],
  ["ring", parseRecordSegments],
  ["keys", (segments) => parseFlat("slot", segments)],
  ["index", (segments) => parseFlat("index-segment", segments)],
  ["packs", (segments) => parseFanned("pack", segments)],
  ["maps", (segments) => parseFanned("map-pack", segments)],
  ["inventory", (segments) => parsePart("inventory", segments)],
  ["findings", (segments) => parsePart("findings", segments)],
]);

/**
 * A new recovery point id: 12 hex digits of milliseconds since 1970, `-`, 16 random hex digits. The
 * time serves people only; that ids differ rests on the random part.
 */
export function createPointId(clock: Clock, random: RandomSource): string {
  return `${toTimeText(clock.nowMs())}-${toHex(random.bytes(8))}`;
}

/** Whether `text` is a recovery point id. */
export function isPointId(text: string): boolean {
  return pointPattern.test(text);
}

/** Checks an id that a user typed; ArgumentInvalid (after-change). */
export function parsePointId(text: string): string {
  if (isPointId(text)) return text;
  throw new KluisError(
    "ArgumentInvalid",
    `Cannot use ${JSON.stringify(text.slice(0, 64))} as a recovery point id: ` +
      "it is not 12 hex digits, a hyphen and 16 hex digits",
  );
}

/** When the point was named, in milliseconds since 1970; for people only. */
export function pointIdTimeMs(point: string): number {
  assert(isPointId(point), "a recovery point id");
  return Number.parseInt(point.slice(0, 12), 16);
}

const pointTimeMsMax = 2 ** 48 - 1;
const pointPattern = /^[0-9a-f]{12}-[0-9a-f]{16}$/;
const partNumberPattern = /^[0-9a-f]{12}$/;
const itemPattern = /^[0-9a-f]{32}$/;
const sessionPattern = /^[0-9a-f]{16}$/;
const beatPattern = /^([0-9a-f]{16})\.([0-9a-f]{12})$/;
const vaultPattern = itemPattern;
const recordPattern = /^([0-9a-f]{32})-([0-9a-f]{8})(-copy)?$/;

function toTimeText(nowMs: number): string {
  const timeMs = Math.min(Math.max(Math.trunc(nowMs), 0), pointTimeMsMax);
  return timeMs.toString(16).padStart(12, "0");
}

function parseSessionName(segments: readonly string[]): StoreName | undefined {
  const [folder, text = ""] = segments;
  if (segments.length !== 2) return undefined;
  if (folder === "leases") {
    const [, session, time] = beatPattern.exec(text) ?? [];
    if (session !== undefined && time !== undefined) {
      return { kind: "beat", session, timeMs: Number.parseInt(time, 16) };
    }
  }
  if (!sessionPattern.test(text)) return undefined;
  if (folder === "leases") return { kind: "lease", session: text };
  if (folder === "condemned") return { kind: "condemned", session: text };
  return folder === "decisions" ? { kind: "decision", session: text } : undefined;
}

function parsePointSegments(
  segments: readonly string[],
  kind: "manifest" | "deleted",
): StoreName | undefined {
  const [, item, point] = segments;
  if (segments.length !== 3 || item === undefined || point === undefined) return undefined;
  if (!itemPattern.test(item) || !isPointId(point)) return undefined;
  return { kind, item, point };
}

function parseFlat(kind: HashedKind, segments: readonly string[]): StoreName | undefined {
  return segments.length === 2 ? hashed(kind, segments[1]) : undefined;
}

function parseFanned(kind: HashedKind, segments: readonly string[]): StoreName | undefined {
  const [, second, third] = segments;
  if (segments.length !== 3 || third?.slice(0, 2) !== second) return undefined;
  return hashed(kind, third);
}

function parsePart(folder: LedgerFolder, segments: readonly string[]): StoreName | undefined {
  const [number = "", hash = "", ...more] = segments[1]?.split("-") ?? [];
  if (segments.length !== 2 || more.length > 0 || !partNumberPattern.test(number)) return undefined;
  const sha256 = hash.length === sha256Bytes * 2 ? fromHex(hash) : undefined;
  return sha256 && { kind: folder, number: Number.parseInt(number, 16), sha256 };
}

type HashedKind = "slot" | "pack" | "map-pack" | "index-segment";

function parseRecordSegments(segments: readonly string[]): StoreName | undefined {
  const [, text = ""] = segments;
  const [, vault, digits, copy] = recordPattern.exec(text) ?? [];
  if (segments.length !== 2 || vault === undefined || digits === undefined) return undefined;
  const number = Number.parseInt(digits, 16);
  if (number < 1 || number > keyRecordsMax) return undefined;
  return { kind: "key-record", vault, number, isCopy: copy !== undefined };
}

function hashed(kind: HashedKind, text: string | undefined): StoreName | undefined {
  const sha256 = text?.length === sha256Bytes * 2 ? fromHex(text) : undefined;
  return sha256 === undefined ? undefined : { kind, sha256 };
}

function fannedName(prefix: string, sha256: Uint8Array): string {
  const text = hashText(sha256);
  return `${prefix}${text.slice(0, 2)}/${text}`;
}

function hashText(sha256: Uint8Array): string {
  assert(sha256.byteLength === sha256Bytes, "a SHA-256 has 32 bytes");
  return toHex(sha256);
}
