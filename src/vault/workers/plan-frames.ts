/** Cuts the wanted blocks of a segment into frames. */
import { present } from "#base/assert.ts";
import { isCompressible } from "#vault/container/compressibility.ts";
import type { FrameBlock } from "#vault/pack/pack-builder.ts";
import type { Candidate } from "#vault/workers/page-grouping.ts";

/** A frame to be sealed. */
export interface PlannedFrame {
  readonly compress: boolean;
  /** Where its blocks lie in the segment. */
  readonly sources: readonly Candidate[];
  /** Where they will lie in the frame. */
  readonly blocks: readonly FrameBlock[];
}

/**
 * Frames in disk order; blocks worth compressing apart from the others.
 *
 * @param frameBytes Largest plaintext of a frame, at most 1 MiB; no block is larger.
 */
export function planFrames(
  buffer: ArrayBuffer,
  wanted: readonly Candidate[],
  frameBytes: number,
): readonly PlannedFrame[] {
  const compressible = wanted.map(({ offsetBytes, lengthBytes }) =>
    isCompressible(new Uint8Array(buffer, offsetBytes, lengthBytes)),
  );
  return [true, false].flatMap((compress) =>
    cutFrames(
      wanted.filter((_, at) => compressible[at] === compress),
      { compress, frameBytes },
    ),
  );
}

/** The frame's plaintext: a view of the segment where it lies together there, else a copy in `scratch`. */
export function gatherFrame(
  buffer: ArrayBuffer,
  frame: PlannedFrame,
  scratch: Uint8Array,
): Uint8Array {
  const first = present(frame.sources[0], "a frame has a block");
  let end = first.offsetBytes;
  const isTogether = frame.sources.every((source) => {
    const isNext = source.offsetBytes === end;
    end = source.offsetBytes + source.lengthBytes;
    return isNext;
  });
  if (isTogether) return new Uint8Array(buffer, first.offsetBytes, end - first.offsetBytes);
  let at = 0;
  for (const { offsetBytes, lengthBytes } of frame.sources) {
    scratch.set(new Uint8Array(buffer, offsetBytes, lengthBytes), at);
    at += lengthBytes;
  }
  return scratch.subarray(0, at);
}

function cutFrames(
  wanted: readonly Candidate[],
  { compress, frameBytes }: { readonly compress: boolean; readonly frameBytes: number },
): readonly PlannedFrame[] {
  const frames: PlannedFrame[] = [];
  let sources: Candidate[] = [];
  let lengthBytes = 0;
  const close = (): void => {
    if (sources.length > 0) frames.push({ compress, sources, blocks: placeBlocks(sources) });
    sources = [];
    lengthBytes = 0;
  };
  for (const candidate of wanted) {
    if (lengthBytes + candidate.lengthBytes > frameBytes) close();
    sources.push(candidate);
    lengthBytes += candidate.lengthBytes;
  }
  close();
  return frames;
}

function placeBlocks(sources: readonly Candidate[]): readonly FrameBlock[] {
  let offsetBytes = 0;
  return sources.map(({ id, lengthBytes }) => {
    const block = { id, offsetBytes, lengthBytes };
    offsetBytes += lengthBytes;
    return block;
  });
}
