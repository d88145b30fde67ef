/** Leases, and what a backup and a deletion do; docs/design/gc-and-locking.md. */
import { KluisError } from "#base/kluis-error.ts";
import type { CondemnedRecordBody, SessionPurpose } from "#formats/control-record.ts";
import {
  condemnedPrefix,
  decisionName,
  deletedName,
  deletedPrefix,
  indexPrefix,
  leaseName,
  leasePrefix,
  mapPackPrefix,
  packPrefix,
  parseStoreName,
  pointPrefix,
} from "#formats/store-names.ts";
import { get, list, type ListedName, put, remove, type Steps } from "./steps.ts";

/** Who works, and the one name that decides whether the work counts. */
export interface Session {
  /** 16 hex digits. */
  readonly id: string;
  readonly purpose: SessionPurpose;
  readonly commitKey: string;
}

/** A condemned record of some session. */
export interface CondemnedRecord {
  readonly session: string;
  readonly body: CondemnedRecordBody;
}

/** What a session may build on: names that it has listed under its lease. */
export interface TrustView {
  readonly records: readonly CondemnedRecord[];
  readonly segments: readonly string[];
  /** Data packs and map packs. */
  readonly packs: readonly ListedName[];
}

/** A session that collects: its commit key is its decision. */
export function toCollection(id: string): Session {
  return { id, purpose: "collection", commitKey: decisionName(id) };
}

/** Puts the lease; nothing may be read before that a session relies on. */
export function* putLease(session: Session): Steps<void> {
  const { id, purpose, commitKey } = session;
  yield* put("lease-first", leaseName(id), { kind: "lease", purpose, commitKey });
}

/** Opens a backup that builds on the manifests `bases`; `undefined` where one is gone: end the session. */
export function* openBackup(
  session: Session,
  bases: readonly string[],
): Steps<TrustView | undefined> {
  yield* putLease(session);
  const records = yield* readCondemned("condemned-is-absent");
  const segments = yield* listNames("choose", indexPrefix);
  const packs = yield* listPacks("trust-listed-packs");
  for (const base of bases) if (!(yield* pointExists(base))) return undefined;
  return { records, segments, packs };
}

/** What an occupied commit key means to who wanted to put a manifest there. */
export function* readLostCommit(session: Session): Steps<"fenced" | "taken"> {
  const found = yield* get("commit-if-absent", session.commitKey);
  return found === undefined || found.kind === "tombstone" ? "fenced" : "taken";
}

/**
 * Whether a manifest is there and not deleted. The mark is read first: it is removed last. Nothing may be
 * built on a point whose mark is damaged: a collection may have read it before.
 */
export function* pointExists(manifest: string): Steps<boolean> {
  if ((yield* get("base-exists", deletedName(manifest))) !== undefined) return false;
  const found = yield* get("base-exists", manifest);
  return found?.kind === "content";
}

/** Removes the lease and its signs of life. Only once no put of this session can be under way. */
export function* endSession(id: string): Steps<void> {
  const names = yield* listNames("end-session", leasePrefix);
  const beats = names.filter((name) => {
    const parsed = parseStoreName(name);
    return parsed?.kind === "beat" && parsed.session === id;
  });
  // The lease goes last: signs of life without one would stay.
  yield* remove("end-session", beats);
  yield* remove("end-session", [leaseName(id)]);
}

/**
 * Deletes a point; false where there is none. Its manifest stays until a collection removes it. A mark
 * that is damaged is put anew. Errors: Busy (backoff) while a collection may have read that one.
 */
export function* deletePoint(manifest: string): Steps<boolean> {
  const mark = deletedName(manifest);
  const found = yield* get("base-exists", mark);
  if (found?.kind === "damaged") return yield* mendMark(mark, "delete");
  if (!(yield* pointExists(manifest))) return false;
  yield* put("delete-by-mark", mark, { kind: "deleted" });
  return true;
}

/**
 * Replaces a deletion mark that is damaged, or, to `keep` a point that is still there, removes it; whether
 * there is such a point. Safe where no collection works that may have read the mark while it was whole: one
 * that begins later finds it damaged, whole or gone. Errors: Busy (backoff).
 */
export function* mendMark(mark: string, aim: "delete" | "keep"): Steps<boolean> {
  for (const name of yield* listNames("mark-stays", leasePrefix)) {
    if (parseStoreName(name)?.kind !== "lease") continue;
    const lease = yield* get("mark-stays", name);
    if (lease?.kind === "lease" && lease.purpose === "collection") throw busyMark(mark);
  }
  const manifest = toManifest(mark);
  const records = yield* readCondemned("condemned-is-absent");
  if (records.some(({ body }) => body.manifests.includes(manifest))) throw busyMark(mark);
  yield* remove("mark-stays", [mark]);
  const isThere = (yield* get("base-exists", manifest))?.kind === "content";
  // Where the manifest is gone its writer may still put it once more.
  if (!isThere || aim === "delete") yield* put("delete-by-mark", mark, { kind: "deleted" });
  return isThere;
}

function toManifest(mark: string): string {
  return `${pointPrefix}${mark.slice(deletedPrefix.length)}`;
}

function busyMark(mark: string): KluisError {
  const reason = "a collection is at work";
  return new KluisError("Busy", `Cannot replace the damaged deletion mark "${mark}": ${reason}`);
}

/** All condemned records. One that vanishes meanwhile has nothing left to remove. */
export function* readCondemned(
  why: "condemned-is-absent" | "adopt-records" | "records-again",
): Steps<readonly CondemnedRecord[]> {
  const records: CondemnedRecord[] = [];
  for (const name of yield* listNames(why, condemnedPrefix)) {
    const parsed = parseStoreName(name);
    const body = yield* get(why, name);
    if (parsed?.kind !== "condemned" || body?.kind !== "condemned") continue;
    records.push({ session: parsed.session, body });
  }
  return records;
}

/** The manifests that deletion marks hide, and the marks that are damaged and hide nothing. */
export function* listMarks(prefix: string = deletedPrefix): Steps<{
  readonly deleted: ReadonlySet<string>;
  readonly damaged: readonly string[];
}> {
  const marks = yield* list("marks-before-leases", prefix);
  const whole = marks.filter(({ isDamaged }) => isDamaged !== true);
  const deleted = whole.map(({ name }) => toManifest(name));
  const damaged = marks.filter(({ isDamaged }) => isDamaged === true).map(({ name }) => name);
  return { deleted: new Set(deleted), damaged };
}

/** The error of a collection that cannot tell whether a point was deleted: it frees nothing. */
export function damagedMark(mark: string): KluisError {
  const point = mark.slice(mark.lastIndexOf("/") + 1);
  return new KluisError(
    "ObjectCorrupt",
    `Cannot collect: the deletion mark of recovery point "${point}" is damaged. Delete the point again, or keep ` +
      "it with kluis vault repair",
    { details: { object: mark } },
  );
}

/** All data packs and map packs. */
export function* listPacks(
  why: "trust-listed-packs" | "choose" | "roots-again",
): Steps<readonly ListedName[]> {
  const packs = yield* list(why, packPrefix);
  return [...packs, ...(yield* list(why, mapPackPrefix))];
}

/** Names below a prefix. */
export function* listNames(why: Parameters<typeof list>[0], prefix: string): Steps<string[]> {
  return (yield* list(why, prefix)).map(({ name }) => name);
}
