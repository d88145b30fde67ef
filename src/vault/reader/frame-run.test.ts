// Goal: runs take every frame once, in the order of its pack, within the bounds of a get and of memory,
// and the task that opens one names every block.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { idBytes } from "#formats/geometry.ts";
import { createSeededRandom, readTestSeed } from "#testing/seeded-random.ts";
import { nowhere } from "#vault/workers/open-frames.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";
import { fetchBytesMax, fetchGapBytesMax } from "#vault/limits.ts";
import {
  blocksOf,
  joinNeighbours,
  type NeededFrame,
  rangeOf,
  toFramesToOpen,
} from "./frame-run.ts";

const random = createSeededRandom("frame runs");
const packs = [1, 2, 3].map((epoch) => ({
  type: "pack" as const,
  name: random.bytes(32),
  epoch,
  salt: random.bytes(32),
}));

/** A frame after a gap, of which the blocks at these offsets are needed. */
interface Drawn {
  readonly pack: number;
  readonly gapBytes: number;
  readonly sealedBytes: number;
  readonly plainBytes: number;
  readonly offsets: readonly number[];
}

const drawnFrame: fc.Arbitrary<Drawn> = fc.record({
  pack: fc.nat(packs.length - 1),
  gapBytes: fc.oneof(fc.constant(0), fc.nat(2 * fetchGapBytesMax)),
  sealedBytes: fc.oneof(
    fc.integer({ min: 33, max: 60_000 }),
    fc.integer({ min: 33, max: 2 ** 20 }),
  ),
  plainBytes: fc.integer({ min: 1, max: 2 ** 20 }),
  offsets: fc.uniqueArray(fc.nat(5), { minLength: 1, maxLength: 6 }),
});

function toFrames(drawn: readonly Drawn[]): readonly NeededFrame[] {
  const ends = packs.map(() => 64);
  const frames = drawn.map(({ pack, gapBytes, sealedBytes, plainBytes, offsets }) => {
    const frameOffsetBytes = (ends[pack] ?? 0) + gapBytes;
    ends[pack] = frameOffsetBytes + sealedBytes;
    const head = packs[pack] as BlockLocation["pack"];
    const blocks = offsets.map((offsetBytes) => ({
      id: new Uint8Array(idBytes).fill(offsetBytes + 1),
      location: {
        pack: head,
        frame: 0,
        frameOffsetBytes,
        frameSealedBytes: sealedBytes,
        framePlainBytes: plainBytes,
        codec: "stored" as const,
        offsetBytes,
        lengthBytes: 1,
      },
      pieces: [
        { offsetBytes: 0, lengthBytes: 1, targetOffset: 10 * frameOffsetBytes + offsetBytes },
      ],
    }));
    return { location: (blocks[0] as (typeof blocks)[0]).location, blocks };
  });
  return random.shuffle(frames);
}

test("frame runs: every frame once, in pack order, each run within its bounds and as long as they allow", () => {
  fc.assert(
    fc.property(
      fc.array(drawnFrame, { maxLength: 60 }),
      fc.integer({ min: 1, max: 8 }),
      (drawn, mib) => {
        const frames = toFrames(drawn);
        const plainBytesMax = mib * 2 ** 20;
        const runs = joinNeighbours(frames, plainBytesMax);
        assert.equal(new Set(runs.flat()).size, frames.length);
        assert.equal(runs.flat().length, frames.length);
        for (const [at, run] of runs.entries()) {
          const { offsetBytes, lengthBytes } = rangeOf(run);
          let end = offsetBytes;
          for (const { location } of run) {
            assert.equal(location.pack, run[0]?.location.pack);
            const gapBytes = location.frameOffsetBytes - end;
            assert.ok(gapBytes >= 0 && gapBytes <= fetchGapBytesMax);
            end = location.frameOffsetBytes + location.frameSealedBytes;
          }
          assert.equal(end, offsetBytes + lengthBytes);
          const plainBytes = run.reduce((sum, { location }) => sum + location.framePlainBytes, 0);
          assert.ok(
            run.length === 1 || (lengthBytes <= fetchBytesMax && plainBytes <= plainBytesMax),
          );
          const next = runs[at + 1]?.[0]?.location;
          if (next === undefined || next.pack !== run[0]?.location.pack) continue;
          const isFull =
            next.frameOffsetBytes + next.frameSealedBytes - offsetBytes > fetchBytesMax ||
            plainBytes + next.framePlainBytes > plainBytesMax;
          assert.ok(isFull || next.frameOffsetBytes - end > fetchGapBytesMax);
        }
      },
    ),
    { seed: readTestSeed() },
  );
});

test("frame runs: the task of a run names each frame and its blocks, where they lie", () => {
  const shape = { pack: 0, gapBytes: 10, sealedBytes: 100, plainBytes: 4096 };
  const frames = toFrames([
    { ...shape, offsets: [3, 0] },
    { ...shape, offsets: [1] },
  ]);
  const [run, ...others] = joinNeighbours(frames, 2 ** 20);
  assert.ok(run !== undefined && others.length === 0);
  const memory = new SharedArrayBuffer(10_000);
  const places = [new Uint8Array(memory, 64, 4096), new Uint8Array(memory, 5000, 4096)];
  const { lengthBytes } = rangeOf(run);
  assert.equal(lengthBytes, 210);
  // What a store returns may lie in a larger buffer, of which nothing is given away.
  const fetched = new Uint8Array(new ArrayBuffer(500), 7, lengthBytes);
  const task = toFramesToOpen(run, fetched, { blocks: blocksOf(run), places });
  assert.equal(task.buffer.byteLength, lengthBytes);
  assert.equal(task.copies, undefined);
  assert.equal(task.target?.memory, memory);
  assert.deepEqual([...(task.target?.atBytes ?? [])], [64, 5000]);
  assert.deepEqual([...task.startsBytes], [0, 110]);
  assert.deepEqual([...task.frames], [0, 0, 1]);
  assert.deepEqual([...task.offsetsBytes], [3, 0, 1]);
  assert.deepEqual(
    [0, 1, 2].map((at) => task.ids[at * idBytes]),
    [4, 1, 2],
  );
});

test("frame runs: the task tells what is copied, pieces that lie together as one, and what is kept", () => {
  const shape = { pack: 0, gapBytes: 0, sealedBytes: 100, plainBytes: 4096 };
  const [first, second] = toFrames([{ ...shape, offsets: [0, 1, 3] }]).concat(
    toFrames([{ ...shape, offsets: [2] }]),
  );
  assert.ok(first !== undefined && second !== undefined);
  const run = [first, second];
  const target = new Uint8Array(new SharedArrayBuffer(9000), 1000, 8000);
  const place = new Uint8Array(new SharedArrayBuffer(5000), 64, 4096);
  const fetched = new Uint8Array(200);
  const how = { blocks: blocksOf(run), places: [undefined, place], target };
  const { copies, target: kept } = toFramesToOpen(run, fetched, how);
  assert.equal(copies?.memory, target.buffer);
  assert.deepEqual([...(copies?.frames ?? [])], [0, 0, 1]);
  assert.deepEqual([...(copies?.fromBytes ?? [])], [0, 3, 2]);
  assert.deepEqual([...(copies?.lengthsBytes ?? [])], [2, 1, 1]);
  assert.deepEqual([...(copies?.toBytes ?? [])], [1640, 1643, 1642]);
  assert.equal(kept?.memory, place.buffer);
  assert.deepEqual([...(kept?.atBytes ?? [])], [nowhere, 64]);
});
