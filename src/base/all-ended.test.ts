// Goal: an error is told when all have ended, not before.
import assert from "node:assert/strict";
import { test } from "node:test";

import { allEnded } from "./all-ended.ts";

test("all ended: gives the results in order", async () => {
  assert.deepEqual(await allEnded([Promise.resolve(1), Promise.resolve(2)]), [1, 2]);
  assert.deepEqual(await allEnded([]), []);
});

test("all ended: rejects with the first error once the slowest has ended", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  let isOver = false;
  const work = [promise, Promise.reject(new Error("first")), Promise.reject(new Error("second"))];
  const ended = assert.rejects(allEnded(work), /first/).then(() => (isOver = true));
  for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
  assert.equal(isOver, false);
  resolve();
  await ended;
});
