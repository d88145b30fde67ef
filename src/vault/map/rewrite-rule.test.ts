// Goal: the sweep spends no more than its share, goes on where it stopped, and comes round.
// Method: leaves by example; a property over random leaves, changes and shares.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { AssertionError } from "#base/assert.ts";
import { leafWindows, windowPages } from "#formats/geometry.ts";
import type { Leaf, WindowMap } from "#formats/map-node.ts";
import { readTestSeed } from "#testing/seeded-random.ts";
import { rewritePiecesMin, rewriteShare, RewriteSweep, type SweepState } from "./rewrite-rule.ts";

const seed = readTestSeed();

/** A window in so many pieces. */
function shred(pieces: number): WindowMap | undefined {
  if (pieces === 0) return undefined;
  const list = Array.from({ length: pieces }, (_, at) => ({
    pages: at === 0 ? windowPages - pieces + 1 : 1,
    block: new Uint8Array(24).fill(at),
    offsetPages: 0,
  }));
  return { checksum: new Uint8Array(16), pieces: list };
}

function leafOf(...pieces: number[]): Leaf {
  return { windows: Array.from({ length: leafWindows }, (_, at) => shred(pieces[at] ?? 0)) };
}

const shredded = leafOf(...Array<number>(leafWindows).fill(50));
const none = new Uint8Array(leafWindows);

test("rewrite sweep: goes on where the increment before stopped and starts anew at the end", () => {
  const rounds: (readonly number[])[] = [];
  let state: SweepState | undefined;
  for (let round = 0; round < 4; round++) {
    // Enough for 5 windows and a little more.
    const sweep = new RewriteSweep({
      changedPages: Math.ceil((5 * windowPages) / rewriteShare),
      state,
    });
    rounds.push(
      [2, 3].flatMap((index) => sweep.planLeaf({ index, leaf: shredded, changedPages: none })),
    );
    state = sweep.state;
  }
  assert.deepEqual(rounds, [
    [16, 17, 18, 19, 20],
    [21, 22, 23, 24, 25],
    [26, 27, 28, 29, 30],
    [31],
  ]);
  assert.deepEqual(state, { cursor: 0, creditPages: 63 });
});

test("rewrite sweep: leaves alone what is in few pieces, whole, zeros or changes whole", () => {
  const sweep = new RewriteSweep({ changedPages: 10_000 });
  const atThreshold = leafOf(64, 64, 64, 64, 60, 2, 1, 1);
  assert.equal(rewritePiecesMin, 320);
  const below = leafOf(64, 64, 64, 64, 59, 2, 1, 1);
  assert.deepEqual(sweep.planLeaf({ index: 0, leaf: below, changedPages: none }), []);
  const changedPages = none.with(2, windowPages);
  assert.deepEqual(
    sweep.planLeaf({ index: 1, leaf: atThreshold, changedPages }),
    [8, 9, 11, 12, 13],
  );
  const withZeros = leafOf(64, 64, 0, 64, 64, 64, 1, 1);
  assert.deepEqual(
    sweep.planLeaf({ index: 2, leaf: withZeros, changedPages: none }),
    [16, 17, 19, 20, 21],
  );
  assert.deepEqual(sweep.planLeaf({ index: 3, leaf: undefined, changedPages: none }), []);
});

test("rewrite sweep: does not want leaves before its cursor or after it has spent its share", () => {
  const changedPages = Math.ceil(200 / rewriteShare);
  const sweep = new RewriteSweep({ changedPages, state: { cursor: 85, creditPages: 0 } });
  assert.ok(!sweep.isWanted(9));
  assert.deepEqual(sweep.planLeaf({ index: 9, leaf: shredded, changedPages: none }), []);
  assert.ok(sweep.isWanted(10));
  const state = { cursor: 80, creditPages: 0 };
  assert.ok(!new RewriteSweep({ changedPages, state }).isWanted(9));
  // The leaf was begun: its last windows are finished though it is in few pieces now.
  const begun = leafOf(1, 1, 1, 1, 1, 50, 50, 50);
  assert.deepEqual(sweep.planLeaf({ index: 10, leaf: begun, changedPages: none }), [85, 86, 87]);
  assert.deepEqual(sweep.planLeaf({ index: 12, leaf: shredded, changedPages: none }), []);
  assert.ok(!sweep.isWanted(13));
  assert.deepEqual(sweep.state, { cursor: 96, creditPages: 8 });
});

test("rewrite sweep: saves up for a window when increments are small", () => {
  let state: SweepState | undefined;
  let windows = 0;
  for (let increment = 0; increment < 320; increment++) {
    const sweep = new RewriteSweep({ changedPages: Math.ceil(2 / rewriteShare), state });
    windows += sweep.planLeaf({ index: 7, leaf: shredded, changedPages: none }).length;
    state = sweep.state;
  }
  // 2 pages each: a window every 32 increments, but none while the sweep comes round.
  assert.ok(windows >= 8 && windows <= 10, `${windows} windows`);
});

test("rewrite sweep: never spends more than its share, over all increments and but for a window in each", () => {
  const leaf = fc.array(fc.integer({ min: 0, max: 64 }), { minLength: 8, maxLength: 8 });
  const changes = fc.array(fc.integer({ min: 0, max: 64 }), { minLength: 8, maxLength: 8 });
  const increment = fc.array(fc.tuple(leaf, changes), { minLength: 1, maxLength: 20 });
  fc.assert(
    fc.property(fc.array(increment, { minLength: 1, maxLength: 10 }), (increments) => {
      let state: SweepState | undefined;
      let spent = 0;
      let changed = 0;
      for (const leaves of increments) {
        const changedPages = leaves
          .flatMap(([, list]) => list)
          .reduce((sum, count) => sum + count, 0);
        const sweep = new RewriteSweep({ changedPages, state });
        const before = spent;
        for (const [index, [pieces, list]] of leaves.entries()) {
          const whole = sweep.planLeaf({ index, leaf: leafOf(...pieces), changedPages: list });
          for (const window of whole) {
            assert.equal(Math.floor(window / leafWindows), index);
            assert.ok((pieces[window % leafWindows] ?? 0) > 1);
            spent += windowPages - (list[window % leafWindows] ?? 0);
          }
        }
        changed += changedPages;
        assert.ok(spent <= changed * rewriteShare);
        assert.ok(spent - before <= Math.max(changedPages * rewriteShare, windowPages));
        ({ state } = sweep);
      }
    }),
    { seed, numRuns: 300 },
  );
});

test("rewrite sweep: fails an assertion when leaves are not planned in order", () => {
  const sweep = new RewriteSweep({ changedPages: 100 });
  sweep.planLeaf({ index: 4, leaf: undefined, changedPages: none });
  const again = { index: 4, leaf: undefined, changedPages: none };
  assert.throws(() => sweep.planLeaf(again), AssertionError);
  const state = { cursor: 0, creditPages: windowPages };
  assert.throws(() => new RewriteSweep({ changedPages: 1, state }), AssertionError);
});
