/** How a window's map changes when some of its pages do. Pure. */
import { assert, present } from "#base/assert.ts";
import { windowPages } from "#formats/geometry.ts";
import { isJoinable, type Piece, type WindowMap } from "#formats/map-node.ts";

/** Pages of a window that now lie elsewhere. */
export interface PageChange {
  /** In the window, 0 to 63. */
  readonly firstPage: number;
  readonly pages: number;
  /** Id of the block that holds the pages; `undefined` where they are zeros now. */
  readonly block: Uint8Array | undefined;
  /** Of the first page in the block; 0 for zeros. */
  readonly offsetPages: number;
}

const zeroPieces: readonly Piece[] = [{ pages: windowPages, block: undefined, offsetPages: 0 }];

/**
 * The map of a window after `changes`, which are in order and do not overlap; pieces that can be
 * one are joined. `undefined` where all of it is zeros now.
 *
 * @param checksum Of the window after the changes; 16 bytes, kept.
 */
export function planWindow(
  base: WindowMap | undefined,
  changes: readonly PageChange[],
  checksum: Uint8Array,
): WindowMap | undefined {
  const pieces: Piece[] = [];
  const old = base?.pieces ?? zeroPieces;
  let page = 0;
  for (const change of changes) {
    assert(change.firstPage >= page && change.pages >= 1, "changes are in order and have pages");
    pushSlice(pieces, old, page, change.firstPage);
    const { pages, block, offsetPages } = change;
    pushPiece(pieces, { pages, block, offsetPages });
    page = change.firstPage + pages;
  }
  assert(page <= windowPages, "changes lie inside their window");
  pushSlice(pieces, old, page, windowPages);
  if (pieces.length === 1 && pieces[0]?.block === undefined) return undefined;
  return { checksum, pieces };
}

/** Appends the pages of `pieces` from `from` up to, not including, `to`. */
function pushSlice(target: Piece[], pieces: readonly Piece[], from: number, to: number): void {
  let start = 0;
  for (const piece of pieces) {
    const end = start + piece.pages;
    const first = Math.max(start, from);
    const pages = Math.min(end, to) - first;
    if (pages > 0) {
      const offsetPages = piece.block === undefined ? 0 : piece.offsetPages + first - start;
      pushPiece(target, { pages, block: piece.block, offsetPages });
    }
    start = end;
  }
}

function pushPiece(target: Piece[], piece: Piece): void {
  const last = target.at(-1);
  if (last === undefined || !isJoinable(last, piece)) {
    target.push(piece);
    return;
  }
  present(target.pop(), "the last piece is there");
  target.push({ ...last, pages: last.pages + piece.pages });
}
