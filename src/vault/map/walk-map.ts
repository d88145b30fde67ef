/** The content of a disk's map in disk order. */
import { assert } from "#base/assert.ts";
import { leafWindows } from "#formats/geometry.ts";
import type { Leaf } from "#formats/map-node.ts";
import { windowsOf, type DiskMap, type MapAccess } from "./map-source.ts";
import { walkLeaves, wholeDisk, type WindowRange } from "./tree-walk.ts";

/** What to walk; see {@link walkMap}. */
export interface MapWalk {
  readonly map: DiskMap;
  readonly access: MapAccess;
  /** By default the whole disk. */
  readonly range?: WindowRange | undefined;
  /** Nodes read with one call of the source, 1 to 1,024; by default 1,024. */
  readonly prefetch?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Consecutive windows, all of one leaf or all zeros.
 *
 * The window at index `w` of the disk is `leaf.windows[w % 8]`; its pieces are views of what the
 * source returned.
 */
export interface LeafRange extends WindowRange {
  /** `undefined` where every window of the range is zeros. */
  readonly leaf: Leaf | undefined;
}

/**
 * Yields the range in order and without gaps: leaves, cut to the range and to the disk's end, and
 * between them zeros, however long. Nodes are read in batches, one ahead; zeros cost nothing.
 *
 * Errors: those of the source; ObjectCorrupt, which names the node.
 */
export async function* walkMap(walk: MapWalk): AsyncGenerator<LeafRange> {
  const { map, access, prefetch, signal } = walk;
  const range = walk.range ?? wholeDisk(map.sizeBytes);
  const end = range.firstWindow + range.windowCount;
  assert(end <= windowsOf(map.sizeBytes), "the range lies inside the disk");
  const zeros: DiskMap = { root: undefined, sizeBytes: map.sizeBytes };
  let next = range.firstWindow;
  for await (const pair of walkLeaves({ a: map, b: zeros, access, range, prefetch, signal })) {
    const first = Math.max(pair.index * leafWindows, range.firstWindow);
    if (first > next) {
      yield { firstWindow: next, windowCount: first - next, leaf: undefined };
    }
    next = Math.min((pair.index + 1) * leafWindows, end);
    yield { firstWindow: first, windowCount: next - first, leaf: pair.a };
  }
  if (next < end) yield { firstWindow: next, windowCount: end - next, leaf: undefined };
}
