// Goal: an increment hears of every touched window once, in order, and of the windows that the sweep
// chose in between; the base is read only where the sweep may choose, in ascending order.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { leafWindows, windowPages } from "#formats/geometry.ts";
import type { Leaf, WindowMap } from "#formats/map-node.ts";
import { createSeededRandom, readTestSeed } from "#testing/seeded-random.ts";
import { RewriteSweep, rewriteShare } from "#vault/map/rewrite-rule.ts";
import { planRewrites } from "./rewrite-plan.ts";
import {
  countChangedPages,
  pageChanges,
  type PlannedWindow,
  type TouchedWindow,
} from "./segment-plan.ts";

const random = createSeededRandom("rewrite plan");

/** A window in so many pieces. */
function shattered(pieces: number): WindowMap {
  const list = Array.from({ length: pieces }, (_, at) => ({
    pages: at === pieces - 1 ? windowPages - pieces + 1 : 1,
    block: random.bytes(24),
    offsetPages: 0,
  }));
  return { checksum: new Uint8Array(16), pieces: list };
}

function touch(window: number, pages: number): TouchedWindow {
  return { window, pages: new Uint8Array(windowPages).fill(pageChanges.data, 0, pages) };
}

async function plan(
  touched: readonly TouchedWindow[],
  sweep: RewriteSweep,
  base: ReadonlyMap<number, WindowMap>,
): Promise<{ planned: PlannedWindow[]; read: number[] }> {
  const planned: PlannedWindow[] = [];
  const read: number[] = [];
  const readLeaf = (leafIndex: number): Promise<Leaf | undefined> => {
    read.push(leafIndex);
    const windows = Array.from({ length: leafWindows }, (_, at) =>
      base.get(leafIndex * leafWindows + at),
    );
    return Promise.resolve({ windows });
  };
  for await (const window of planRewrites(touched, sweep, readLeaf)) planned.push(window);
  return { planned, read };
}

test("rewrite plan: windows that the sweep chose join those of their leaf, unchanged", async () => {
  const base = new Map(
    Array.from({ length: leafWindows }, (_, at) => [at, shattered(64)] as const),
  );
  // Enough for two windows and not for three.
  const sweep = new RewriteSweep({ changedPages: Math.ceil(160 / rewriteShare) });
  const { planned } = await plan([touch(2, 60), touch(5, 10)], sweep, base);
  assert.deepEqual(
    planned.map(({ window, isRewritten }) => [window, isRewritten]),
    [
      [0, true],
      [1, true],
      [2, true],
      [5, false],
    ],
  );
  assert.deepEqual(planned.map(countChangedPages), [0, 0, 60, 10]);
});

test("rewrite plan: any touched windows come out once, in order, as they went in", async () => {
  const windows = fc.uniqueArray(fc.nat(200), { maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(windows, fc.nat(2000), fc.nat(300), async (list, changedPages, cursor) => {
      const touched = list
        .sort((a, b) => a - b)
        .map((window) => touch(window, random.integer(1, windowPages)));
      const base = new Map<number, WindowMap>();
      for (let window = 0; window <= 210; window++) {
        if (random.chance(0.8)) base.set(window, shattered(random.pick([1, 2, 40, 64])));
      }
      const sweep = new RewriteSweep({ changedPages, state: { cursor, creditPages: 0 } });
      const { planned, read } = await plan(touched, sweep, base);
      const numbers = planned.map(({ window }) => window);
      assert.deepEqual(
        numbers,
        numbers.toSorted((a, b) => a - b),
      );
      assert.equal(new Set(numbers).size, numbers.length);
      assert.deepEqual(
        planned.filter((window) => countChangedPages(window) > 0).map(({ window }) => window),
        touched.map(({ window }) => window),
      );
      for (const { window, pages } of touched) {
        const same = planned.find((other) => other.window === window);
        assert.deepEqual(same?.pages, pages);
      }
      const leaves = new Set(list.map((window) => Math.floor(window / leafWindows)));
      let extraPages = 0;
      for (const window of planned) {
        assert.ok(
          leaves.has(Math.floor(window.window / leafWindows)),
          "only leaves that are touched",
        );
        if (!window.isRewritten) continue;
        assert.ok((base.get(window.window)?.pieces.length ?? 0) > 1);
        extraPages += windowPages - countChangedPages(window);
      }
      assert.ok(extraPages <= changedPages * rewriteShare, "within the share");
      assert.deepEqual(
        read,
        read.toSorted((a, b) => a - b),
      );
      assert.equal(new Set(read).size, read.length);
      for (const leaf of read) assert.ok(leaves.has(leaf));
    }),
    { seed: readTestSeed(), numRuns: 150 },
  );
});
