// Goal: every item is worked on, never more than allowed at once; after a failure nothing new begins,
// and what began has ended when it is thrown.
import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import { test } from "node:test";

import { createSeededRandom } from "#testing/seeded-random.ts";
import { forEachBounded } from "./for-each-bounded.ts";

const random = createSeededRandom("for each bounded");
const items = Array.from({ length: 50 }, (_, at) => at);

test("for each bounded: works on all, at most so many at once", async () => {
  const done = new Set<number>();
  let running = 0;
  let peak = 0;
  await forEachBounded(items, 5, async (item) => {
    peak = Math.max(peak, ++running);
    await setTimeout(random.integer(0, 3));
    running--;
    done.add(item);
  });
  assert.equal(done.size, items.length);
  assert.equal(peak, 5);
});

test("for each bounded: a failure ends it once all that began has ended", async () => {
  let begun = 0;
  let running = 0;
  const work = async (item: number): Promise<void> => {
    begun++;
    running++;
    await setTimeout(random.integer(0, 3));
    running--;
    if (item === 7) throw new Error("item 7");
  };
  await assert.rejects(forEachBounded(items, 5, work), /item 7/);
  assert.equal(running, 0);
  assert.ok(begun < items.length, `${begun} began`);
});
