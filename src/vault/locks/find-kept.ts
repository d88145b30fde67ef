/**
 * What a collection must leave alone: what is locked (docs/adr/0009-immutability.md), and in a secondary what the
 * primary has (docs/design/redundancy.md).
 */
import { forEachBounded } from "#base/for-each-bounded.ts";
import { indexSegmentName, mapPackName, packName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import { lockRequestsInFlight } from "#vault/limits.ts";

/** What is looked at. */
export interface KeptDeps {
  readonly store: ObjectStore;
  readonly index: BlockIndex;
  readonly mayRemove?: ((name: string) => boolean) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The listed packs and segments that are locked now or may not be removed, and packs that such a segment
 * names: a segment never names a pack that was removed.
 */
export async function findKept(
  { store, index, mayRemove, signal }: KeptDeps,
  listed: {
    readonly segments: readonly string[];
    readonly packs: readonly { readonly name: string }[];
  },
): Promise<ReadonlySet<string>> {
  const names = [...listed.segments, ...listed.packs.map(({ name }) => name)];
  const kept = new Set(mayRemove === undefined ? [] : names.filter((name) => !mayRemove(name)));
  const { locks } = store;
  if (locks !== undefined) {
    const nowMs = await locks.nowMs(signal);
    await forEachBounded(names, lockRequestsInFlight, async (name) => {
      if (!(await locks.endsBefore(name, nowMs, signal))) kept.add(name);
    });
  }
  if (kept.size === 0) return kept;
  const bound: string[] = [];
  for await (const { head, segmentName } of index.packExtents()) {
    if (!kept.has(indexSegmentName(segmentName))) continue;
    bound.push(head.type === "pack" ? packName(head.name) : mapPackName(head.name));
  }
  for (const name of bound) kept.add(name);
  return kept;
}
