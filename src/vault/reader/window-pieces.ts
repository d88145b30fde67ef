/** What has to be copied to fill a range of a disk; pure. */
import { leafWindows, pageBytes, windowBytes } from "#formats/geometry.ts";
import type { LeafRange } from "#vault/map/walk-map.ts";
import type { BlockPiece } from "#vault/reader/block-reader.ts";

/** A range of bytes of a disk. */
export interface DiskRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/**
 * The pieces of `windows` that fall into `range`, placed relative to its start. What no piece
 * covers is zeros.
 */
export function planPieces(windows: LeafRange, range: DiskRange): readonly BlockPiece[] {
  const planned: BlockPiece[] = [];
  const { leaf } = windows;
  if (leaf === undefined) return planned;
  const end = range.offsetBytes + range.lengthBytes;
  for (let at = 0; at < windows.windowCount; at++) {
    const window = windows.firstWindow + at;
    let start = window * windowBytes;
    for (const piece of leaf.windows[window % leafWindows]?.pieces ?? []) {
      const lengthBytes = piece.pages * pageBytes;
      const from = Math.max(start, range.offsetBytes);
      const to = Math.min(start + lengthBytes, end);
      if (piece.block !== undefined && to > from) {
        planned.push({
          block: piece.block,
          offsetBytes: piece.offsetPages * pageBytes + from - start,
          lengthBytes: to - from,
          targetOffset: from - range.offsetBytes,
        });
      }
      start += lengthBytes;
    }
  }
  return planned;
}
