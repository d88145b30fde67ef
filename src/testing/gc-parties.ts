/** What the parties of a simulated vault do: backups, deletions, collections, of toy content. */
import { indexPrefix, pointPrefix } from "#formats/store-names.ts";
import {
  collect,
  type CollectionChoice,
  type CollectionInput,
  type CollectionPolicy,
  type CollectionWork,
} from "#vault/gc/collect-protocol.ts";
import {
  endSession,
  listMarks,
  openBackup,
  readLostCommit,
  toCollection,
  type TrustView,
} from "#vault/gc/session-protocol.ts";
import { get, list, put, type Steps } from "#vault/gc/steps.ts";
import { contentOf, type SimPack, type SimSegment } from "./gc-store.ts";

/** Counts sessions, packs and segments of a world. */
export interface Names {
  next: number;
}

/** One backup of toy content. */
export interface BackupPlan {
  readonly item: number;
  /** Whether it has no base even where there is one. */
  readonly isFull: boolean;
  /** Whether it carries this block of its base over. */
  keeps(block: number): boolean;
  /** Blocks that it refers to besides; each round is a pack of those that are not there. */
  readonly rounds: readonly (readonly number[])[];
}

/** What somebody has to choose packs from. */
export interface PacksToChoose {
  readonly input: CollectionInput;
  readonly entries: readonly Entry[];
  /** Blocks that an existing point refers to. */
  readonly marked: ReadonlySet<number>;
}

/** One collection of toy content. */
export interface CollectionPlan extends CollectionPolicy {
  choosePacks(state: PacksToChoose): readonly string[];
}

/** A pack, as a segment names it. */
export type Entry = SimSegment["packs"][number] & { readonly segment: string };

function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, "0");
}

/** A backup, from its lease to the end of it; notes in `acknowledged` what it committed. */
export function* backUp(names: Names, plan: BackupPlan, acknowledged: Set<string>): Steps<void> {
  const number = names.next++;
  const id = hex(number, 16);
  const commitKey = `${pointPrefix}${hex(plan.item, 32)}/${hex(number, 12)}-${id}`;
  const session = { id, purpose: "backup", commitKey } as const;
  const base = plan.isFull ? undefined : yield* findNewest(plan.item);
  const view = yield* openBackup(session, base === undefined ? [] : [base.name]);
  if (view === undefined) {
    yield* endSession(id);
    return;
  }
  const trusted = yield* readTrusted(view);
  const blocks = (base?.blocks ?? []).filter((block) => plan.keeps(block));
  for (const round of plan.rounds) {
    blocks.push(...round);
    const stored = round.filter((block) => !trusted.has(block));
    if (stored.length === 0) continue;
    yield* store(names, id, stored);
    for (const block of stored) trusted.add(block);
  }
  const manifest = { kind: "content", content: { blocks } } as const;
  const outcome = yield* put("commit-if-absent", commitKey, manifest);
  // A put that was repeated finds what it put.
  const isMine = outcome === "created" || (yield* get("commit-if-absent", commitKey)) === manifest;
  if (isMine) acknowledged.add(commitKey);
  else if ((yield* readLostCommit(session)) === "taken") throw new Error("a commit key came twice");
  yield* endSession(id);
}

/** Pack, then segment. */
function* store(names: Names, session: string, blocks: readonly number[]): Steps<void> {
  const name = `packs/${hex(names.next++, 8)}-${session}`;
  yield* put("choose", name, { kind: "content", content: { pack: blocks } });
  yield* putSegment(names, session, { packs: [{ name, blocks }] });
}

function* putSegment(names: Names, session: string, segment: SimSegment): Steps<void> {
  const name = `${indexPrefix}${hex(names.next++, 8)}-${session}`;
  yield* put("choose", name, { kind: "content", content: segment });
}

function* findNewest(item: number): Steps<{ name: string; blocks: readonly number[] } | undefined> {
  const { deleted } = yield* listMarks();
  const names = yield* list("choose", `${pointPrefix}${hex(item, 32)}/`);
  const newest = names.findLast(({ name, isTombstone }) => !isTombstone && !deleted.has(name));
  if (newest === undefined) return undefined;
  const body = yield* get("choose", newest.name);
  if (body?.kind !== "content") return undefined;
  return { name: newest.name, blocks: contentOf(body).blocks };
}

/** Blocks that a backup may build on. */
function* readTrusted(view: TrustView): Steps<Set<number>> {
  const packs = new Set(view.packs.map(({ name }) => name));
  for (const { body } of view.records) for (const name of body.packs) packs.delete(name);
  const gone = new Set(view.records.flatMap(({ body }) => body.segments));
  const trusted = new Set<number>();
  for (const entry of yield* readEntries(view.segments.filter((name) => !gone.has(name)))) {
    if (packs.has(entry.name)) for (const block of entry.blocks) trusted.add(block);
  }
  return trusted;
}

function* readEntries(segments: readonly string[]): Steps<readonly Entry[]> {
  const entries: Entry[] = [];
  for (const segment of segments) {
    const body = yield* get("choose", segment);
    if (body === undefined) continue;
    for (const pack of contentOf(body).packs) entries.push({ ...pack, segment });
  }
  return entries;
}

/** A collection, from its lease to the end of it. */
export function* collectOnce(names: Names, plan: CollectionPlan): Steps<void> {
  const session = toCollection(hex(names.next++, 16));
  yield* collect(session, createWork(names, session.id, plan), plan);
}

function createWork(names: Names, session: string, plan: CollectionPlan): CollectionWork {
  const marked = new Set<number>();
  const seen = new Set<string>();
  let entries: readonly Entry[] = [];
  function* mark(manifests: readonly string[]): Steps<void> {
    for (const name of manifests) {
      if (seen.has(name)) continue;
      seen.add(name);
      const body = yield* get("choose", name);
      if (body?.kind !== "content") continue;
      for (const block of contentOf(body).blocks) marked.add(block);
    }
  }
  return {
    *choose(input: CollectionInput): Steps<CollectionChoice> {
      entries = yield* readEntries(input.segments);
      yield* mark(input.manifests);
      const chosen = new Set(plan.choosePacks({ input, entries, marked }));
      const segments = entries.filter(({ name }) => chosen.has(name));
      return { packs: [...chosen], segments: [...new Set(segments.map((one) => one.segment))] };
    },
    *announce() {
      // The inventory is no part of what is simulated.
    },
    *secure(input: CollectionInput, choice: CollectionChoice): Steps<void> {
      yield* mark(input.manifests);
      const chosen = new Set(choice.packs);
      const old = new Set(choice.segments);
      const fresh = yield* readEntries(input.segments);
      const listed = new Set(input.packs.map(({ name }) => name));
      const isKept = ({ name }: Entry): boolean => listed.has(name) && !chosen.has(name);
      const safe = new Set<number>();
      for (const entry of fresh) {
        if (!isKept(entry) || input.condemned.has(entry.name)) continue;
        for (const block of entry.blocks) safe.add(block);
      }
      const copies = new Set<number>();
      for (const entry of [...entries, ...fresh]) {
        if (!chosen.has(entry.name)) continue;
        for (const block of entry.blocks) {
          if (marked.has(block) && !safe.has(block)) copies.add(block);
        }
      }
      if (copies.size > 0) {
        const name = `packs/${hex(names.next++, 8)}-${session}`;
        const blocks = [...copies];
        const content: SimPack = { pack: blocks };
        yield* put("copy-out", name, { kind: "content", content });
        yield* putSegment(names, session, { packs: [{ name, blocks }] });
      }
      const packs = fresh.filter((entry) => old.has(entry.segment) && isKept(entry));
      if (packs.length > 0) yield* putSegment(names, session, { packs });
    },
  };
}
