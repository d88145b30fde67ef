/** Where two maps differ; for verification and statistics. */
import { bytesEqual } from "#base/bytes.ts";
import { leafWindows } from "#formats/geometry.ts";
import type { WindowMap } from "#formats/map-node.ts";
import { isSameId, type DiskMap, type MapAccess } from "./map-source.ts";
import { walkLeaves } from "./tree-walk.ts";

/** What to compare; see {@link diffMaps}. */
export interface MapDiff {
  readonly a: DiskMap;
  readonly b: DiskMap;
  readonly access: MapAccess;
  readonly prefetch?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A window that is not mapped alike; `undefined` where it is zeros or past the disk's end. */
export interface WindowDifference {
  readonly windowIndex: number;
  readonly a: WindowMap | undefined;
  readonly b: WindowMap | undefined;
}

/**
 * The windows whose checksum or pieces differ, in order. Windows of equal content may still be
 * stored in different pieces; compare their checksums to tell. What the maps share is not read.
 *
 * Errors: those of the source; ObjectCorrupt, which names the node.
 */
export async function* diffMaps(diff: MapDiff): AsyncGenerator<WindowDifference> {
  for await (const pair of walkLeaves(diff)) {
    for (let at = 0; at < leafWindows; at++) {
      const a = pair.a?.windows[at];
      const b = pair.b?.windows[at];
      if (!isSameWindow(a, b)) yield { windowIndex: pair.index * leafWindows + at, a, b };
    }
  }
}

/** Whether both windows have the same checksum and pieces. */
export function isSameWindow(a: WindowMap | undefined, b: WindowMap | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  if (a.pieces.length !== b.pieces.length || !bytesEqual(a.checksum, b.checksum)) return false;
  return a.pieces.every((piece, at) => {
    const other = b.pieces[at];
    return (
      piece.pages === other?.pages &&
      piece.offsetPages === other.offsetPages &&
      isSameId(piece.block, other.block)
    );
  });
}
