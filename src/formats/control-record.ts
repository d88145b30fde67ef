/**
 * Leases, condemned records, decisions and deletion marks: lines of text, of which the first is the
 * object's own name; docs/design/vault-format.md §7.1.
 *
 * One content has one encoding; a parser rejects every other with ObjectCorrupt.
 */
import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { parseStoreName } from "#formats/store-names.ts";

/** What a session does. */
export type SessionPurpose = "backup" | "collection";

/** A session's claim: the one name that decides whether its work counts. */
export interface LeaseRecord {
  readonly kind: "lease";
  readonly purpose: SessionPurpose;
  readonly commitKey: string;
}

/** Names of objects that a collection means to remove. */
export interface CondemnedRecordBody {
  readonly kind: "condemned";
  /** Data packs and map packs. */
  readonly packs: readonly string[];
  readonly segments: readonly string[];
  readonly manifests: readonly string[];
}

/** A record of the protocol of docs/design/gc-and-locking.md. */
export type ControlRecord =
  | LeaseRecord
  | CondemnedRecordBody
  | { readonly kind: "decision" }
  | { readonly kind: "deleted" };

/** Bytes of a tombstone, sealed: header, a frame of one byte, trailer. No manifest is so short. */
export const tombstoneBytes = 113;
/** What a tombstone's one frame holds. */
export const tombstonePlain = new Uint8Array([1]);

/** The bytes of a record that is stored as `name`. */
export function encodeControlRecord(name: string, record: ControlRecord): Uint8Array {
  const lines = [name, record.kind, ...linesOf(record)];
  assert(
    lines.every((line) => !line.includes("\n")),
    "no line holds a line end",
  );
  return new TextEncoder().encode(lines.map((line) => `${line}\n`).join(""));
}

/** Parses the record that is stored as `name`; ObjectCorrupt (never). */
export function parseControlRecord(bytes: Uint8Array, name: string): ControlRecord {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw corrupt(name, "it is not text", cause);
  }
  const lines = text.split("\n");
  if (lines.pop() !== "") throw corrupt(name, "its last line has no end");
  const [place, kind, ...rest] = lines;
  if (place !== name) throw corrupt(name, "it belongs to another place");
  if (kind !== parseStoreName(name)?.kind) throw corrupt(name, "it is of another kind");
  if (kind === "lease") return parseLease(rest, name);
  if (kind === "condemned") return parseCondemned(rest, name);
  if (rest.length > 0) throw corrupt(name, "it is too long");
  if (kind === "decision" || kind === "deleted") return { kind };
  throw corrupt(name, "it is of no known kind");
}

function linesOf(record: ControlRecord): readonly string[] {
  if (record.kind === "lease") return [record.purpose, record.commitKey];
  if (record.kind !== "condemned") return [];
  return [...record.packs, ...record.segments, ...record.manifests];
}

function parseLease(lines: readonly string[], name: string): LeaseRecord {
  const [purpose, commitKey] = lines;
  if (lines.length !== 2 || commitKey === undefined) throw corrupt(name, "it is out of form");
  if (purpose !== "backup" && purpose !== "collection") throw corrupt(name, "it has no purpose");
  const kind = parseStoreName(commitKey)?.kind;
  if (kind !== (purpose === "backup" ? "manifest" : "decision")) {
    throw corrupt(name, "it has no commit key");
  }
  return { kind: "lease", purpose, commitKey };
}

const orderOfKinds = ["pack", "map-pack", "index-segment", "manifest"] as const;

function parseCondemned(lines: readonly string[], name: string): CondemnedRecordBody {
  const packs: string[] = [];
  const segments: string[] = [];
  const manifests: string[] = [];
  let last = 0;
  for (const line of lines) {
    const kind = parseStoreName(line)?.kind;
    const at = orderOfKinds.findIndex((one) => one === kind);
    // Data packs and map packs may mix; what follows them may not.
    if (at < 0 || Math.max(at, 1) < last) throw corrupt(name, "it names what it may not");
    last = Math.max(at, 1);
    if (at < 2) packs.push(line);
    else (at === 2 ? segments : manifests).push(line);
  }
  return { kind: "condemned", packs, segments, manifests };
}

function corrupt(name: string, reason: string, cause?: unknown): KluisError {
  const details = { object: name };
  return new KluisError("ObjectCorrupt", `Cannot read "${name}": ${reason}`, { details, cause });
}
