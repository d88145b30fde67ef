/** Leases, and what a backup and a deletion do; docs/design/gc-and-locking.md. */
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

/** Whether a manifest is there and not deleted. The mark is read first: it is removed last. */
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

/** Deletes a point; false where there is none. Its manifest stays until a collection removes it. */
export function* deletePoint(manifest: string): Steps<boolean> {
  if (!(yield* pointExists(manifest))) return false;
  yield* put("delete-by-mark", deletedName(manifest), { kind: "deleted" });
  return true;
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

/** The manifests that deletion marks hide; `prefix` is {@link deletedPrefix} or begins with it. */
export function* listDeleted(prefix: string = deletedPrefix): Steps<ReadonlySet<string>> {
  const names = yield* listNames("marks-before-leases", prefix);
  return new Set(names.map((name) => `points/${name.slice(deletedPrefix.length)}`));
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
