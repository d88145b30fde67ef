/** What the parties of a simulated vault do: backups, deletions, collections, of toy content. */
import { indexPrefix, pointPrefix } from "#formats/store-names.ts";
import {
  collect,
  type CollectionChoice,
  type CollectionInput,
  type CollectionWork,
} from "#vault/gc/collect-protocol.ts";
import {
  deletePoint,
  endSession,
  listDeleted,
  listNames,
  openBackup,
  readLostCommit,
  toCollection,
  type TrustView,
} from "#vault/gc/session-protocol.ts";
import { get, list, put, type Steps } from "#vault/gc/steps.ts";
import { contentOf, type SimPack, type SimSegment, type SimWorld } from "./gc-world.ts";

/** Blocks of the simulated disks are numbers below this. */
const blockKinds = 9;

/** Counts sessions, packs and segments of a world. */
export interface Names {
  next: number;
}

function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, "0");
}

/** So many backups of one item, each an increment of the newest point, some of them full. */
export function* backUpOften(
  world: SimWorld,
  names: Names,
  options: { readonly item: number; readonly backups: number },
): Steps<void> {
  for (let at = 0; at < options.backups; at++) yield* backUp(world, names, options.item);
}

function* backUp(world: SimWorld, names: Names, item: number): Steps<void> {
  const number = names.next++;
  const id = hex(number, 16);
  const commitKey = `${pointPrefix}${hex(item, 32)}/${hex(number, 12)}-${id}`;
  const session = { id, purpose: "backup", commitKey } as const;
  const base = world.oneIn(4) ? undefined : yield* findNewest(item);
  const view = yield* openBackup(session, base === undefined ? [] : [base.name]);
  if (view === undefined) {
    yield* endSession(id);
    return;
  }
  const trusted = yield* readTrusted(view);
  const blocks = (base?.blocks ?? []).filter(() => !world.oneIn(3));
  for (let round = world.random.below(2); round >= 0; round--) {
    const stored: number[] = [];
    for (let count = world.random.below(4); count > 0; count--) {
      const block = world.random.below(blockKinds);
      blocks.push(block);
      if (!trusted.has(block)) stored.push(block);
    }
    if (stored.length === 0) continue;
    yield* store(names, id, stored);
    for (const block of stored) trusted.add(block);
  }
  const manifest = { kind: "content", content: { blocks } } as const;
  const outcome = yield* put("commit-if-absent", commitKey, manifest);
  // A put that was repeated finds what it put.
  const isMine = outcome === "created" || (yield* get("commit-if-absent", commitKey)) === manifest;
  if (isMine) world.acknowledged.add(commitKey);
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
  const deleted = yield* listDeleted();
  const names = yield* list("choose", `${pointPrefix}${hex(item, 32)}/`);
  const newest = names.findLast(({ name, isTombstone }) => !isTombstone && !deleted.has(name));
  if (newest === undefined) return undefined;
  const body = yield* get("choose", newest.name);
  if (body?.kind !== "content") return undefined;
  return { name: newest.name, blocks: contentOf(body).blocks };
}

/** Blocks that a backup may build on. */
function* readTrusted(view: TrustView): Steps<Set<number>> {
  const packs = new Set(view.packs);
  for (const { body } of view.records) for (const name of body.packs) packs.delete(name);
  const gone = new Set(view.records.flatMap(({ body }) => body.segments));
  const trusted = new Set<number>();
  for (const entry of yield* readEntries(view.segments.filter((name) => !gone.has(name)))) {
    if (packs.has(entry.name)) for (const block of entry.blocks) trusted.add(block);
  }
  return trusted;
}

type Entry = SimSegment["packs"][number] & { readonly segment: string };

function* readEntries(segments: readonly string[]): Steps<readonly Entry[]> {
  const entries: Entry[] = [];
  for (const segment of segments) {
    const body = yield* get("choose", segment);
    if (body === undefined) continue;
    for (const pack of contentOf(body).packs) entries.push({ ...pack, segment });
  }
  return entries;
}

/** Deletes so many points, any of any item. */
export function* deleteOften(world: SimWorld, deletions: number): Steps<void> {
  for (let at = 0; at < deletions; at++) {
    const names = yield* list("choose", pointPrefix);
    const choice = names[world.random.below(Math.max(1, names.length))];
    if (choice !== undefined && !choice.isTombstone) yield* deletePoint(choice.name);
  }
}

/** So many collections; with `isThorough` nobody counts as alive, and nothing is left to chance. */
export function* collectOften(
  world: SimWorld,
  names: Names,
  options: { readonly collections: number; readonly isThorough?: true },
): Steps<void> {
  for (let at = 0; at < options.collections; at++) {
    const isThorough = options.isThorough === true;
    const session = toCollection(hex(names.next++, 16));
    yield* collect(session, createWork(world, names, { session: session.id, isThorough }), {
      isSilent: () => isThorough || world.oneIn(6),
      givesUp: () => world.oneIn(20),
    });
  }
}

function createWork(
  world: SimWorld,
  names: Names,
  run: { readonly session: string; readonly isThorough: boolean },
): CollectionWork {
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
      const chosen = new Set(choosePacks(world, { input, entries, marked, run }));
      const segments = entries.filter(({ name, segment }) => chosen.has(name) || segment === "");
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
        const name = `packs/${hex(names.next++, 8)}-${run.session}`;
        const blocks = [...copies];
        yield* put("copy-out", name, {
          kind: "content",
          content: { pack: blocks } satisfies SimPack,
        });
        yield* putSegment(names, run.session, { packs: [{ name, blocks }] });
      }
      const packs = fresh.filter((entry) => old.has(entry.segment) && isKept(entry));
      if (packs.length > 0) yield* putSegment(names, run.session, { packs });
    },
  };
}

function choosePacks(
  world: SimWorld,
  state: {
    readonly input: CollectionInput;
    readonly entries: readonly Entry[];
    readonly marked: ReadonlySet<number>;
    readonly run: { readonly isThorough: boolean };
  },
): string[] {
  const { input, entries, marked, run } = state;
  const held = new Map<string, readonly number[]>();
  for (const { name, blocks } of entries) held.set(name, blocks);
  // One copy of a marked block is kept: that of the first pack which holds it.
  const kept = new Set<number>();
  const names = input.packs.map(({ name }) => name);
  return names.filter((name) => {
    if (input.condemned.has(name)) return true;
    const isLive = input.live.has(name.slice(name.lastIndexOf("-") + 1));
    if (isLive && !run.isThorough && !world.oneIn(4)) return false;
    const blocks = (held.get(name) ?? []).filter((block) => marked.has(block));
    if (!run.isThorough && world.oneIn(4)) return true;
    const isGarbage = blocks.every((block) => kept.has(block));
    const isRepacked = run.isThorough && (held.get(name) ?? []).some((block) => !marked.has(block));
    if (isGarbage || isRepacked) return true;
    for (const block of blocks) kept.add(block);
    return false;
  });
}

/** Names of packs that hold a block to which no existing point refers. */
export function* findGarbage(): Steps<readonly string[]> {
  const deleted = yield* listDeleted();
  const needed = new Set<number>();
  for (const { name, isTombstone } of yield* list("choose", pointPrefix)) {
    const body = isTombstone || deleted.has(name) ? undefined : yield* get("choose", name);
    if (body?.kind !== "content") continue;
    for (const block of contentOf(body).blocks) needed.add(block);
  }
  const garbage: string[] = [];
  for (const name of yield* listNames("choose", "packs/")) {
    const body = yield* get("choose", name);
    if (body === undefined) continue;
    if (contentOf(body).pack.some((block) => !needed.has(block))) garbage.push(name);
  }
  return garbage;
}
