/** What a collection does, step by step; docs/design/gc-and-locking.md. */
import type { SessionPurpose } from "#formats/control-record.ts";
import {
  condemnedName,
  deletedName,
  indexPrefix,
  leaseName,
  leasePrefix,
  parseStoreName,
  pointPrefix,
} from "#formats/store-names.ts";
import {
  type CondemnedRecord,
  endSession,
  damagedMark,
  listMarks,
  listNames,
  listPacks,
  putLease,
  readCondemned,
  type Session,
} from "./session-protocol.ts";
import { get, list, type ListedName, pause, put, remove, type Steps } from "./steps.ts";

/** What a collection sees when it chooses, and again when it verifies its choice. */
export interface CollectionInput {
  /** Manifests that are roots. */
  readonly manifests: readonly string[];
  readonly segments: readonly string[];
  readonly packs: readonly ListedName[];
  /** Packs that records of others name. */
  readonly condemned: ReadonlySet<string>;
  /** Sessions that seem to live. */
  readonly live: ReadonlySet<string>;
}

/** What a collection means to remove. */
export interface CollectionChoice {
  readonly packs: readonly string[];
  readonly segments: readonly string[];
}

/** The work between the steps. */
export interface CollectionWork {
  /** Marks, and chooses; every pack of `condemned` that is listed is to be among those chosen. */
  choose(input: CollectionInput): Steps<CollectionChoice>;
  /**
   * Marks from manifests that {@link choose} has not seen; gives every marked block of the chosen
   * packs a copy in a listed pack that nobody condemns; puts segments in place of those chosen.
   */
  secure(input: CollectionInput, choice: CollectionChoice): Steps<void>;
  /** Says in the inventory that these objects are removed from now on; safety does not rest on it. */
  announce(names: readonly string[]): Steps<void>;
}

/** When a collection stops waiting. Only efficiency rests on it. */
export interface CollectionPolicy {
  /** Whether a session gave no sign of life for so long that it is fenced. */
  isSilent(lease: { readonly session: string; readonly lastSignMs: number }): boolean;
  /** Whether to give up instead of waiting on. */
  givesUp(): boolean;
}

/** How a collection ended. */
export type CollectionEnd = "nothing-to-do" | "done" | "fenced" | "gave-up";

/** Runs a collection to its end. Errors of `work` leave nothing removed. */
export function* collect(
  session: Session,
  work: CollectionWork,
  policy: CollectionPolicy,
): Steps<CollectionEnd> {
  yield* putLease(session);
  const { deleted, damaged } = yield* listMarks();
  for (const mark of damaged) throw damagedMark(mark);
  const records = yield* readCondemned("adopt-records");
  const points = yield* listPoints("choose", deleted);
  const choice = yield* work.choose({
    manifests: points.roots,
    segments: yield* listNames("choose", indexPrefix),
    packs: yield* listPacks("choose"),
    condemned: packsOf(records),
    live: yield* liveSessions(session, policy),
  });
  if (choice.packs.length + choice.segments.length + deleted.size === 0) {
    yield* endSession(session.id);
    return "nothing-to-do";
  }
  const body = { kind: "condemned", ...choice, manifests: points.hidden } as const;
  yield* put("condemn-first", condemnedName(session.id), body);
  const writers = yield* waitForLeases(session, policy);
  if (writers === undefined) return yield* withdraw(session, "gave-up");
  yield* dropFencedRecords(records);
  const others = yield* readCondemned("records-again");
  // Points first: what a manifest needs is put before it, so the listings after it name all of that.
  const last = yield* listPoints("roots-again", deleted);
  const input = {
    manifests: last.roots,
    segments: yield* listNames("roots-again", indexPrefix),
    packs: yield* listPacks("roots-again"),
    condemned: packsOf(others),
    live: new Set<string>(),
  };
  yield* work.secure(input, choice);
  if (!(yield* decide(session))) return yield* withdraw(session, "fenced");
  yield* work.announce([...body.manifests, ...body.segments, ...body.packs]);
  yield* removeAll(body);
  // Where the writer still has a lease it may put the manifest once more: the mark stays.
  const marks = new Set([...deleted].filter((name) => !writers.has(name)));
  for (const name of last.hidden) if (!points.hidden.includes(name)) marks.delete(name);
  yield* remove("mark-stays", [...marks].map(deletedName));
  yield* remove("owner-removes-record", [condemnedName(session.id)]);
  yield* endSession(session.id);
  yield* remove("owner-removes-record", [session.commitKey]);
  return "done";
}

/** Ends a collection that has removed nothing and never will. */
export function* withdraw<End extends CollectionEnd>(session: Session, end: End): Steps<End> {
  yield* remove("owner-removes-record", [condemnedName(session.id)]);
  yield* endSession(session.id);
  return end;
}

/** Manifests that are roots, and those that `deleted` hides. */
function* listPoints(
  why: "choose" | "roots-again",
  deleted: ReadonlySet<string>,
): Steps<{ readonly roots: readonly string[]; readonly hidden: readonly string[] }> {
  const names = yield* list(why, pointPrefix);
  const manifests = names.flatMap(({ name, isTombstone }) => (isTombstone ? [] : [name]));
  return {
    roots: manifests.filter((name) => !deleted.has(name)),
    hidden: manifests.filter((name) => deleted.has(name)),
  };
}

/** Sessions that gave a sign of life of late: their packs are no candidates. */
function* liveSessions(session: Session, policy: CollectionPolicy): Steps<ReadonlySet<string>> {
  const others = yield* listOthers("choose", session);
  return new Set(others.flatMap((other) => (policy.isSilent(other) ? [] : [other.session])));
}

/** A lease that must end before anything is removed. */
interface OtherLease {
  readonly session: string;
  readonly lastSignMs: number;
}

/**
 * Ends every other session that has a lease now, or waits until it ended. Gives the commit keys of
 * all whose lease was there; `undefined` where this collection gives up.
 */
function* waitForLeases(
  session: Session,
  policy: CollectionPolicy,
): Steps<ReadonlySet<string> | undefined> {
  const keys = new Set<string>();
  const others = yield* listOthers("wait-for-leases", session);
  for (const other of others) {
    for (;;) {
      const lease = yield* get("wait-for-leases", leaseName(other.session));
      if (lease?.kind !== "lease") break;
      keys.add(lease.commitKey);
      if (yield* isHidden(lease.commitKey)) break;
      const atKey = yield* get("fence", lease.commitKey);
      if (atKey?.kind === "tombstone" && !(yield* isHidden(lease.commitKey))) {
        yield* endSession(other.session);
      }
      if (atKey !== undefined) break;
      const lastSignMs = Math.max(other.lastSignMs, yield* lastSign(other.session));
      if (policy.isSilent({ session: other.session, lastSignMs })) {
        yield* put("fence", lease.commitKey, { kind: "tombstone" });
        continue;
      }
      if (policy.givesUp() || mustYield(session, other, lease.purpose)) return undefined;
      yield* pause("wait-for-leases");
    }
  }
  return keys;
}

/**
 * Whether a deletion mark hides whatever is put at a commit key. Then it stays as long as the lease
 * does, which is left to its owner.
 */
function* isHidden(commitKey: string): Steps<boolean> {
  if (!commitKey.startsWith(pointPrefix)) return false;
  const mark = yield* get("mark-stays", deletedName(commitKey));
  if (mark?.kind === "damaged") throw damagedMark(deletedName(commitKey));
  return mark !== undefined;
}

/** Of two collections that live, the one with the greater id gives up; else each would wait. */
function mustYield(session: Session, other: OtherLease, purpose: SessionPurpose): boolean {
  return purpose === "collection" && session.id > other.session;
}

function* listOthers(
  why: "choose" | "wait-for-leases",
  session: Session,
): Steps<readonly OtherLease[]> {
  const signs = new Map<string, number>();
  for (const name of yield* listNames(why, leasePrefix)) {
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "lease" && parsed?.kind !== "beat") continue;
    const timeMs = parsed.kind === "beat" ? parsed.timeMs : 0;
    if (parsed.session === session.id) continue;
    signs.set(parsed.session, Math.max(signs.get(parsed.session) ?? 0, timeMs));
  }
  return [...signs].map(([id, lastSignMs]) => ({ session: id, lastSignMs }));
}

function* lastSign(session: string): Steps<number> {
  let lastMs = 0;
  for (const name of yield* listNames("wait-for-leases", leasePrefix)) {
    const parsed = parseStoreName(name);
    if (parsed?.kind === "beat" && parsed.session === session) {
      lastMs = Math.max(lastMs, parsed.timeMs);
    }
  }
  return lastMs;
}

/** Records of collections that were fenced: they never remove anything, and this one has adopted them. */
function* dropFencedRecords(records: readonly CondemnedRecord[]): Steps<void> {
  for (const { session } of records) {
    const key = `decisions/${session}`;
    const end = yield* get("adopt-records", key);
    if (end?.kind === "tombstone") yield* remove("owner-removes-record", [condemnedName(session)]);
  }
}

/** Commits the collection: from here on it removes. False where it was fenced. */
function* decide(session: Session): Steps<boolean> {
  const outcome = yield* put("decide-if-absent", session.commitKey, { kind: "decision" });
  if (outcome === "created") return true;
  const found = yield* get("decide-if-absent", session.commitKey);
  return found?.kind === "decision";
}

function* removeAll(
  record: CollectionChoice & { readonly manifests: readonly string[] },
): Steps<void> {
  const { manifests, segments, packs } = record;
  for (const names of [manifests, segments, packs]) yield* remove("remove-in-order", names);
}

function packsOf(records: readonly CondemnedRecord[]): ReadonlySet<string> {
  return new Set(records.flatMap(({ body }) => body.packs));
}
