// Goal: results come in the order of their items, however long each takes; no more work runs ahead than
// allowed, and none goes on after the end, whether that comes by an error or because nobody reads on.
import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import { test } from "node:test";

import { createSeededRandom } from "#testing/seeded-random.ts";
import { inOrder } from "./in-order.ts";

const random = createSeededRandom("in order");
const items = Array.from({ length: 40 }, (_, at) => at);
const most = 4;

/** Work that takes any time, and counts itself. */
function createWork(failsAt = -1): {
  readonly state: { running: number; peak: number };
  readonly work: (item: number) => Promise<number>;
} {
  const state = { running: 0, peak: 0 };
  const work = async (item: number): Promise<number> => {
    state.peak = Math.max(state.peak, ++state.running);
    await setTimeout(random.integer(0, 3));
    state.running--;
    if (item === failsAt) throw new Error(`item ${item}`);
    return item * 2;
  };
  return { state, work };
}

test("in order: gives every result in its turn, some running ahead", async () => {
  const { state, work } = createWork();
  const results: number[] = [];
  for await (const result of inOrder(items, most, work)) results.push(result);
  assert.deepEqual(
    results,
    items.map((item) => item * 2),
  );
  assert.equal(state.peak, most);
});

test("in order: an error comes in its turn, and all that began has ended then", async () => {
  const { state, work } = createWork(10);
  const results: number[] = [];
  await assert.rejects(async () => {
    for await (const result of inOrder(items, most, work)) results.push(result);
  }, /item 10/);
  assert.equal(results.length, 10);
  assert.equal(state.running, 0);
});

test("in order: who reads no further waits for what began", async () => {
  const { state, work } = createWork();
  for await (const result of inOrder(items, most, work)) if (result === 8) break;
  assert.equal(state.running, 0);
});
