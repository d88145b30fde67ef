/** What of a disk a backup reads, as page-aligned extents; pure. */
import { pageBytes, windowBytes } from "#formats/geometry.ts";
import type { ChangedExtents, Extent } from "#ports/disk.ts";

/**
 * The extents in which a disk may differ from its base: those that tracking names, cut to the
 * smaller of both, and what a change of size brings.
 *
 * @param tail Extents of the part that a grown disk has beyond its base.
 */
export function planResize(
  changes: ChangedExtents,
  sizes: { readonly sizeBytes: number; readonly baseSizeBytes: number },
  tail: readonly Extent[],
): ChangedExtents {
  const { sizeBytes, baseSizeBytes } = sizes;
  if (sizeBytes === baseSizeBytes) return changes;
  const smaller = Math.min(sizeBytes, baseSizeBytes);
  const planned = cutAt(changes, Math.floor(smaller / pageBytes) * pageBytes);
  // A page in which the smaller one ends is read whatever was said of it: it is cut, or goes on.
  const pageEnd = Math.ceil(smaller / pageBytes) * pageBytes;
  if (pageEnd > smaller) {
    const offsetBytes = pageEnd - pageBytes;
    planned.push({
      offsetBytes,
      lengthBytes: Math.min(pageEnd, sizeBytes) - offsetBytes,
      kind: "data",
    });
  }
  if (sizeBytes > baseSizeBytes) {
    return [...planned, ...alignTail(tail, { startBytes: pageEnd, endBytes: sizeBytes })];
  }
  // The window that now holds the end must read as zeros behind it.
  const windowEnd = Math.ceil(sizeBytes / windowBytes) * windowBytes;
  if (windowEnd > pageEnd) {
    planned.push({ offsetBytes: pageEnd, lengthBytes: windowEnd - pageEnd, kind: "zero" });
  }
  return planned;
}

function cutAt(extents: ChangedExtents, limit: number): Extent[] {
  const kept: Extent[] = [];
  for (const extent of extents) {
    const lengthBytes = Math.min(extent.lengthBytes, limit - extent.offsetBytes);
    if (lengthBytes > 0) kept.push({ ...extent, lengthBytes });
  }
  return kept;
}

/** Data extents of the new part, widened to pages; zeros need no entry, the base has none there. */
function alignTail(
  tail: readonly Extent[],
  bounds: { readonly startBytes: number; readonly endBytes: number },
): Extent[] {
  const aligned: Extent[] = [];
  let end = bounds.startBytes;
  for (const extent of tail) {
    if (extent.kind === "zero") continue;
    const extentEnd = extent.offsetBytes + extent.lengthBytes;
    const start = Math.max(end, Math.floor(extent.offsetBytes / pageBytes) * pageBytes);
    const stop = Math.min(Math.ceil(extentEnd / pageBytes) * pageBytes, bounds.endBytes);
    if (stop <= start) continue;
    aligned.push({ offsetBytes: start, lengthBytes: stop - start, kind: "data" });
    end = Math.ceil(stop / pageBytes) * pageBytes;
  }
  return aligned;
}
