/** Leaves out zeros that the base has already, so that a trim of free space costs nothing. */
import { leafWindows, windowBytes } from "#formats/geometry.ts";
import type { ChangedExtents, Extent } from "#ports/disk.ts";
import { type DiskMap, type MapAccess, windowsOf } from "#vault/map/map-source.ts";
import { walkMap } from "#vault/map/walk-map.ts";

/**
 * The same changes without the whole windows of zero extents that `base` does not map. What is
 * left takes time by what the base holds there, not by the length of the extents: a guest that
 * trims its file system names all of its free space.
 */
export async function dropKnownZeros(
  changes: ChangedExtents,
  walk: {
    readonly base: DiskMap;
    readonly access: MapAccess;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<ChangedExtents> {
  const kept: Extent[] = [];
  for (const extent of changes) {
    const end = extent.offsetBytes + extent.lengthBytes;
    const first = Math.ceil(extent.offsetBytes / windowBytes);
    const last = Math.floor(end / windowBytes);
    if (extent.kind === "data" || last <= first) {
      kept.push(extent);
      continue;
    }
    push(kept, extent.offsetBytes, first * windowBytes);
    const known = Math.min(last, windowsOf(walk.base.sizeBytes));
    const range = { firstWindow: first, windowCount: Math.max(0, known - first) };
    for await (const { leaf, firstWindow, windowCount } of walkMap({
      map: walk.base,
      access: walk.access,
      range,
      signal: walk.signal,
    })) {
      if (leaf === undefined) continue;
      for (let window = firstWindow; window < firstWindow + windowCount; window++) {
        if (leaf.windows[window % leafWindows] === undefined) continue;
        push(kept, window * windowBytes, (window + 1) * windowBytes);
      }
    }
    push(kept, last * windowBytes, end);
  }
  return kept;
}

/** Appends zeros, joined with those before. */
function push(kept: Extent[], offsetBytes: number, endBytes: number): void {
  if (endBytes <= offsetBytes) return;
  const before = kept.at(-1);
  const isNext = before?.kind === "zero" && before.offsetBytes + before.lengthBytes === offsetBytes;
  if (isNext) kept.pop();
  const start = isNext ? before.offsetBytes : offsetBytes;
  kept.push({ offsetBytes: start, lengthBytes: endBytes - start, kind: "zero" });
}
