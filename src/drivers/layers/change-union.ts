/** Joins what several layers changed; pure. */
import type { ChangedExtents, Extent, ExtentKind } from "#ports/disk.ts";

/**
 * What both layers together changed: where both did, the newer one says what is there now. Both
 * lists are in order and do not overlap, and so is the result; neighbours of one kind are joined.
 */
export function unionChanges(older: ChangedExtents, newer: ChangedExtents): ChangedExtents {
  const result = new ExtentList();
  let next = 0;
  for (const extent of older) {
    // What a newer extent has covered already is left out by the list.
    const { offsetBytes, kind } = extent;
    for (; next < newer.length; next += 1) {
      const over = newer[next] as Extent;
      if (over.offsetBytes >= endOf(extent)) break;
      result.add(offsetBytes, over.offsetBytes, kind);
      result.add(over.offsetBytes, endOf(over), over.kind);
    }
    result.add(offsetBytes, endOf(extent), kind);
  }
  for (; next < newer.length; next += 1) {
    const rest = newer[next] as Extent;
    result.add(rest.offsetBytes, endOf(rest), rest.kind);
  }
  return result.extents;
}

/**
 * The changes of a disk that grew: what of its new part no layer holds reads as zeros, and did not
 * exist before.
 */
export function withGrowth(
  changes: ChangedExtents,
  sizes: { readonly beforeBytes: number; readonly nowBytes: number },
): ChangedExtents {
  const { beforeBytes, nowBytes } = sizes;
  if (nowBytes <= beforeBytes) return changes;
  const growth: Extent = {
    offsetBytes: beforeBytes,
    lengthBytes: nowBytes - beforeBytes,
    kind: "zero",
  };
  return unionChanges([growth], changes);
}

class ExtentList {
  readonly extents: Extent[] = [];

  /** Adds a range, which may be empty; what of it was added before stays as it is. */
  add(fromBytes: number, toBytes: number, kind: ExtentKind): void {
    const last = this.extents.at(-1);
    const startBytes = last === undefined ? fromBytes : Math.max(fromBytes, endOf(last));
    if (startBytes >= toBytes) return;
    if (last !== undefined && last.kind === kind && endOf(last) === startBytes) {
      const lengthBytes = toBytes - last.offsetBytes;
      this.extents[this.extents.length - 1] = { ...last, lengthBytes };
      return;
    }
    this.extents.push({ offsetBytes: startBytes, lengthBytes: toBytes - startBytes, kind });
  }
}

function endOf(extent: Extent): number {
  return extent.offsetBytes + extent.lengthBytes;
}
