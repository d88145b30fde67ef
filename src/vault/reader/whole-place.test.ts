// Goal: a frame is opened in place only if every byte of it goes there, in its order.
// Method: a frame of three blocks and pieces of them, each variant once; then any cut of a frame, shuffled.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createSeededRandom } from "#testing/seeded-random.ts";
import { type FrameToCopy, wholePlaceOf } from "./whole-place.ts";

type Piece = readonly [offsetBytes: number, lengthBytes: number, targetOffset: number];

/** A frame of blocks at 0, 100 and 300, of 600 bytes. */
function frameOf(...pieces: readonly (readonly Piece[])[]): FrameToCopy {
  return {
    location: { framePlainBytes: 600 },
    blocks: pieces.map((of, at) => ({
      location: { offsetBytes: [0, 100, 300][at] ?? 0 },
      pieces: of.map(([offsetBytes, lengthBytes, targetOffset]) => ({
        offsetBytes,
        lengthBytes,
        targetOffset,
      })),
    })),
  };
}

const whole: readonly (readonly Piece[])[] = [[[0, 100, 50]], [[0, 200, 150]], [[0, 300, 350]]];

test("whole place: where the frame begins if all of it is wanted, in its order", () => {
  assert.equal(wholePlaceOf(frameOf(...whole)), 50);
  const cut: readonly Piece[] = [
    [10, 290, 360],
    [0, 10, 350],
  ];
  assert.equal(wholePlaceOf(frameOf(...whole.slice(0, 2), cut)), 50, "pieces of a block");
});

test("whole place: none where a part is not wanted, moved, or wanted twice", () => {
  assert.equal(wholePlaceOf(frameOf(...whole.slice(0, 2))), undefined, "a block is not wanted");
  assert.equal(wholePlaceOf(frameOf([[0, 100, 50]], [[0, 200, 150]], [[0, 299, 350]])), undefined);
  assert.equal(wholePlaceOf(frameOf([[0, 100, 50]], [[0, 200, 450]], [[0, 300, 150]])), undefined);
  const twice: readonly Piece[] = [
    [0, 100, 50],
    [0, 100, 650],
  ];
  assert.equal(wholePlaceOf(frameOf(twice, ...whole.slice(1))), undefined);
  assert.equal(wholePlaceOf(frameOf()), undefined);
});

test("whole place: any cut in any order, and none when a single byte is missing", () => {
  const random = createSeededRandom("whole place");
  for (let round = 0; round < 200; round++) {
    const place = random.integer(0, 1000);
    const pieces: Piece[] = [];
    for (let at = 0; at < 600;) {
      const lengthBytes = random.integer(1, Math.min(100, 600 - at));
      pieces.push([at, lengthBytes, place + at]);
      at += lengthBytes;
    }
    const shuffled = random.shuffle(pieces);
    assert.equal(wholePlaceOf(frameOf(shuffled)), place);
    const [first = [0, 1, 0], ...others] = shuffled;
    const shorter: Piece = [first[0], first[1] - 1, first[2]];
    assert.equal(wholePlaceOf(frameOf([shorter, ...others])), undefined);
  }
});
