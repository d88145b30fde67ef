/** Which objects a scrub checks next, and what is known of the others; pure. */
import type { CheckDepth, CheckedRange } from "#vault/inventory/findings.ts";

/** An object that a scrub may check. */
export interface ScrubObject {
  readonly name: string;
  readonly sizeBytes: number;
  /** Number of the inventory part that named it first; `Infinity` where none does. */
  readonly number: number;
}

/** When objects were checked last. */
export interface ScrubAges {
  /** Objects that no range covers. */
  readonly neverChecked: number;
  readonly neverCheckedBytes: number;
  /** Of the objects that were checked, when the one was whose check is longest ago. */
  readonly oldestAtMs: number | undefined;
}

/**
 * When the object was checked last; `undefined` for never. Objects that came after a range was read
 * are not covered by it.
 */
export function checkedAtMs(
  object: ScrubObject,
  ranges: readonly CheckedRange[],
): number | undefined {
  let latest: number | undefined;
  for (const { from, to, upTo, atMs } of ranges) {
    if (object.name < from || object.name > to || object.number > upTo) continue;
    if (latest === undefined || atMs > latest) latest = atMs;
  }
  return latest;
}

/** What the ranges say of all objects. A check in full is one of that depth and of the lesser one. */
export function measureAges(
  objects: readonly ScrubObject[],
  checked: readonly CheckedRange[],
  depth: CheckDepth,
): ScrubAges {
  const ranges = depth === "objects" ? checked : checked.filter((range) => range.depth === "full");
  let neverChecked = 0;
  let neverCheckedBytes = 0;
  let oldestAtMs: number | undefined;
  for (const object of objects) {
    const atMs = checkedAtMs(object, ranges);
    if (atMs === undefined) {
      neverChecked++;
      neverCheckedBytes += object.sizeBytes;
    } else if (oldestAtMs === undefined || atMs < oldestAtMs) oldestAtMs = atMs;
  }
  return { neverChecked, neverCheckedBytes, oldestAtMs };
}

/**
 * The objects in the order in which they are due: by name, from behind the end of the newest range of
 * that depth on and round. `objects` are sorted by name; each comes once.
 */
export function planScrub(
  objects: readonly ScrubObject[],
  ranges: readonly CheckedRange[],
  depth: CheckDepth,
): readonly ScrubObject[] {
  const last = ranges.findLast((range) => range.depth === depth)?.to;
  if (last === undefined) return objects;
  const start = objects.findIndex(({ name }) => name > last);
  return start <= 0 ? objects : [...objects.slice(start), ...objects.slice(0, start)];
}
