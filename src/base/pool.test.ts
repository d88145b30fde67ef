// Goal: a pool never lends more than there are, serves in order, and an aborted wait loses nothing.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { readTestSeed } from "#testing/seeded-random.ts";
import { Pool } from "./pool.ts";

function numbered(size: number): { pool: Pool<number>; made: () => number } {
  let made = 0;
  return { pool: new Pool({ size, make: () => made++ }), made: () => made };
}

test("pool: makes things when they are first needed and lends each to one taker at a time", async () => {
  const { pool, made } = numbered(3);
  assert.equal(made(), 0);
  const first = await pool.take();
  pool.give(first);
  assert.equal(await pool.take(), first);
  assert.equal(made(), 1);
  assert.deepEqual([await pool.take(), await pool.take()], [1, 2]);
});

test("pool: serves waiters in order, also with another thing in place of the one lent", async () => {
  const pool = new Pool<string | undefined>({ size: 1, make: () => undefined });
  assert.equal(await pool.take(), undefined);
  const waits = [pool.take(), pool.take()];
  pool.give("new");
  assert.equal(await waits[0], "new");
  pool.give("newer");
  assert.equal(await waits[1], "newer");
});

test("pool: an aborted wait rejects with the reason and takes nothing", async () => {
  const { pool } = numbered(1);
  const item = await pool.take();
  const controller = new AbortController();
  const aborted = pool.take(controller.signal);
  const next = pool.take();
  controller.abort(new Error("enough"));
  await assert.rejects(aborted, /enough/);
  await assert.rejects(pool.take(controller.signal), /enough/);
  pool.give(item);
  assert.equal(await next, item);
});

test("pool: refuses what was never lent, and to be empty for ever", () => {
  assert.throws(() => numbered(1).pool.give(5), { name: "AssertionError" });
  assert.throws(() => numbered(0), { name: "AssertionError" });
});

test("pool: any order of takes, gives and aborts lends each thing once and leaves nobody waiting", async () => {
  const steps = fc.array(fc.constantFrom("take", "give", "abort"), { maxLength: 60 });
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 4 }), steps, async (size, moves) => {
      const { pool } = numbered(size);
      const held: number[] = [];
      const waiting: { controller: AbortController; ended: Promise<void> }[] = [];
      for (const move of moves) {
        if (move === "take") {
          const controller = new AbortController();
          const ended = pool.take(controller.signal).then(
            (item) => {
              assert.ok(!held.includes(item), "nobody else holds it");
              held.push(item);
            },
            (error: unknown) => assert.equal(error, "stop"),
          );
          waiting.push({ controller, ended });
        } else if (move === "give" && held.length > 0) pool.give(held.shift() as number);
        else waiting.at(-1)?.controller.abort("stop");
        await Promise.resolve();
        assert.ok(held.length <= size);
      }
      let settled = 0;
      const all = waiting.map(({ ended }) => ended.then(() => settled++));
      while (settled < all.length) {
        while (held.length > 0) pool.give(held.shift() as number);
        await new Promise(setImmediate);
      }
    }),
    { seed: readTestSeed(), numRuns: 500 },
  );
});
