/** Frames that are fetched and opened together; pure. */
import { bytesEqual } from "#base/bytes.ts";
import { present } from "#base/assert.ts";
import { idBytes } from "#formats/geometry.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";
import { fetchBytesMax, fetchGapBytesMax } from "#vault/limits.ts";
import { objectNameOf } from "#vault/reader/locate.ts";
import { type FrameCopies, type FramesToOpen, nowhere } from "#vault/workers/open-frames.ts";

/** Bytes that are to be copied from a block. */
export interface NeededPiece {
  /** In the block. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** In the memory that is filled. */
  readonly targetOffset: number;
}

/** A block that is needed. */
export interface NeededBlock {
  readonly id: Uint8Array;
  readonly location: BlockLocation;
  readonly pieces: readonly NeededPiece[];
}

/** A frame that is needed, for the sake of some of its blocks. */
export interface NeededFrame {
  /** Of any block in it. */
  readonly location: BlockLocation;
  /** Each once. */
  readonly blocks: readonly NeededBlock[];
}

/**
 * Cuts frames into runs, each of one pack and in its order, that come with one get: gaps up to
 * `fetchGapBytesMax` are read along, and a run of several has at most `fetchBytesMax`.
 *
 * @param plainBytesMax Most plaintext of a run of several frames.
 */
export function joinNeighbours<Frame extends NeededFrame>(
  frames: readonly Frame[],
  plainBytesMax: number,
): readonly (readonly Frame[])[] {
  const sorted = frames.toSorted((a, b) => {
    const order = Buffer.compare(a.location.pack.name, b.location.pack.name);
    return order === 0 ? a.location.frameOffsetBytes - b.location.frameOffsetBytes : order;
  });
  const runs: Frame[][] = [];
  let plainBytes = 0;
  for (const frame of sorted) {
    const { location } = frame;
    const run = runs.at(-1);
    plainBytes += location.framePlainBytes;
    if (run !== undefined && plainBytes <= plainBytesMax && isNear(run, location)) run.push(frame);
    else {
      runs.push([frame]);
      plainBytes = location.framePlainBytes;
    }
  }
  return runs;
}

/** Where a run lies in its pack. */
export function rangeOf(run: readonly NeededFrame[]): {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
} {
  const offsetBytes = present(run[0], "a run has a frame").location.frameOffsetBytes;
  const lengthBytes = endOf(present(run.at(-1), "a run has a frame").location) - offsetBytes;
  return { offsetBytes, lengthBytes };
}

/** The blocks of each frame of a run in one list, with the frame's place in the run. */
export function blocksOf(
  run: readonly NeededFrame[],
): readonly (NeededBlock & { readonly frame: number })[] {
  return run.flatMap(({ blocks }, frame) => blocks.map((block) => ({ ...block, frame })));
}

/**
 * The task that opens a run.
 *
 * @param fetched What was read of its range.
 * @param blocks As {@link blocksOf} lists them.
 * @param places Of frames that go to memory as a whole, all in one.
 * @param target Shared memory to which the pieces of blocks are copied, if it is the threads that do it.
 */
export function toFramesToOpen(
  run: readonly NeededFrame[],
  fetched: Uint8Array,
  {
    blocks,
    places,
    target,
  }: {
    readonly blocks: ReturnType<typeof blocksOf>;
    readonly places: readonly (Uint8Array | undefined)[];
    readonly target?: Uint8Array | undefined;
  },
): FramesToOpen {
  const { location } = present(run[0], "a run has a frame");
  const start = location.frameOffsetBytes;
  const ids = new Uint8Array(blocks.length * idBytes);
  for (const [at, { id }] of blocks.entries()) ids.set(id, at * idBytes);
  const placed = places.find((place) => place !== undefined);
  return {
    // Alone in its buffer, which is handed over whole.
    buffer: (fetched.byteLength === fetched.buffer.byteLength ? fetched : new Uint8Array(fetched))
      .buffer as ArrayBuffer,
    packName: objectNameOf(location),
    epoch: location.pack.epoch,
    // A copy: a message takes the whole buffer that a view lies in along.
    salt: new Uint8Array(location.pack.salt),
    startsBytes: Uint32Array.from(run, (frame) => frame.location.frameOffsetBytes - start),
    sealedBytes: Uint32Array.from(run, (frame) => frame.location.frameSealedBytes),
    plainBytes: Uint32Array.from(run, (frame) => frame.location.framePlainBytes),
    ...(placed && {
      target: {
        memory: placed.buffer as unknown as SharedArrayBuffer,
        atBytes: Uint32Array.from(places, (place) => place?.byteOffset ?? nowhere),
      },
    }),
    ...(target && { copies: toCopies(blocks, target) }),
    ids,
    frames: Uint32Array.from(blocks, ({ frame }) => frame),
    offsetsBytes: Uint32Array.from(blocks, (block) => block.location.offsetBytes),
    lengthsBytes: Uint32Array.from(blocks, (block) => block.location.lengthBytes),
  };
}

/** What is copied from the blocks of a run; pieces that lie together, there and here, as one. */
function toCopies(blocks: ReturnType<typeof blocksOf>, target: Uint8Array): FrameCopies {
  const columns = [[], [], [], []] as [number[], number[], number[], number[]];
  const [frames, froms, lengths, tos] = columns;
  for (const { frame, location, pieces } of blocks) {
    for (const { offsetBytes, lengthBytes, targetOffset } of pieces) {
      const from = location.offsetBytes + offsetBytes;
      const to = target.byteOffset + targetOffset;
      const last = frames.length - 1;
      const lastBytes = lengths[last] ?? 0;
      const isNext =
        frames[last] === frame && froms[last] === from - lastBytes && tos[last] === to - lastBytes;
      if (isNext) lengths[last] = lastBytes + lengthBytes;
      else {
        frames.push(frame);
        froms.push(from);
        lengths.push(lengthBytes);
        tos.push(to);
      }
    }
  }
  return {
    memory: target.buffer as unknown as SharedArrayBuffer,
    frames: Uint32Array.from(frames),
    fromBytes: Uint32Array.from(froms),
    lengthsBytes: Uint32Array.from(lengths),
    toBytes: Uint32Array.from(tos),
  };
}

function isNear(run: readonly NeededFrame[], location: BlockLocation): boolean {
  const first = present(run[0], "a run has a frame").location;
  const last = present(run.at(-1), "a run has a frame").location;
  const gapBytes = location.frameOffsetBytes - endOf(last);
  return (
    gapBytes >= 0 &&
    gapBytes <= fetchGapBytesMax &&
    endOf(location) - first.frameOffsetBytes <= fetchBytesMax &&
    bytesEqual(first.pack.name, location.pack.name)
  );
}

function endOf({ frameOffsetBytes, frameSealedBytes }: BlockLocation): number {
  return frameOffsetBytes + frameSealedBytes;
}
