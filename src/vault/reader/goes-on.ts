/** Which frames the next part of a disk is likely to want too; pure. */
import type { NeededFrame } from "#vault/reader/frame-run.ts";

/** So many distances of their pages may lie between the last one and the end: chance leaves 1 frame in 55 out. */
const distancesMax = 4;

/**
 * Whether the frame may hold pages that lie behind the target: the pages of an increment lie in it in the
 * disk's order, with distances as the guest left them. So it does not where its end is wanted here, nor
 * where its pages ended long before the target does.
 */
export function goesOn({ location, blocks }: NeededFrame, targetBytes: number): boolean {
  let [first, end, last, pieces] = [targetBytes, 0, 0, 0];
  for (const block of blocks) {
    pieces += block.pieces.length;
    for (const { offsetBytes, lengthBytes, targetOffset } of block.pieces) {
      first = Math.min(first, targetOffset);
      end = Math.max(end, targetOffset + lengthBytes);
      last = Math.max(last, block.location.offsetBytes + offsetBytes + lengthBytes);
    }
  }
  if (last === location.framePlainBytes) return false;
  return (targetBytes - end) * (pieces - 1) <= (end - first) * distancesMax;
}
