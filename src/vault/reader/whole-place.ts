/** Frames that are wanted as a whole and in one piece; pure. */

/** A frame, and what is to be copied from its blocks. */
export interface FrameToCopy {
  readonly location: { readonly framePlainBytes: number };
  readonly blocks: readonly {
    /** Where the block lies in the frame's plaintext. */
    readonly location: { readonly offsetBytes: number };
    readonly pieces: readonly {
      /** In the block. */
      readonly offsetBytes: number;
      readonly lengthBytes: number;
      readonly targetOffset: number;
    }[];
  }[];
}

/**
 * Where in the target the frame's plaintext begins if all of it goes there as it is; `undefined`
 * where some of it is not wanted, or not in its order. Pieces do not overlap in the target.
 */
export function wholePlaceOf({ location, blocks }: FrameToCopy): number | undefined {
  let place: number | undefined;
  let wantedBytes = 0;
  for (const block of blocks) {
    for (const { offsetBytes, lengthBytes, targetOffset } of block.pieces) {
      const begin = targetOffset - block.location.offsetBytes - offsetBytes;
      place ??= begin;
      if (begin !== place) return undefined;
      wantedBytes += lengthBytes;
    }
  }
  // As many bytes, each from another place of the frame: it is all there.
  return wantedBytes === location.framePlainBytes ? place : undefined;
}
