/** What a collection must leave alone because it is locked; docs/adr/0009-immutability.md. */
import { forEachBounded } from "#base/for-each-bounded.ts";
import { indexSegmentName, mapPackName, packName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import { lockRequestsInFlight } from "#vault/limits.ts";

/** What is looked at. */
export interface LockedDeps {
  readonly store: ObjectStore;
  readonly index: BlockIndex;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The listed packs and segments that are locked now, and packs that a locked segment names: a segment
 * never names a pack that was removed. Empty where the store has no locks.
 */
export async function findLocked(
  { store, index, signal }: LockedDeps,
  listed: {
    readonly segments: readonly string[];
    readonly packs: readonly { readonly name: string }[];
  },
): Promise<ReadonlySet<string>> {
  const locked = new Set<string>();
  const { locks } = store;
  if (locks === undefined) return locked;
  const nowMs = await locks.nowMs(signal);
  const names = [...listed.segments, ...listed.packs.map(({ name }) => name)];
  await forEachBounded(names, lockRequestsInFlight, async (name) => {
    if (!(await locks.endsBefore(name, nowMs, signal))) locked.add(name);
  });
  const bound: string[] = [];
  for await (const { head, segmentName } of index.packExtents()) {
    if (!locked.has(indexSegmentName(segmentName))) continue;
    bound.push(head.type === "pack" ? packName(head.name) : mapPackName(head.name));
  }
  for (const name of bound) locked.add(name);
  return locked;
}
