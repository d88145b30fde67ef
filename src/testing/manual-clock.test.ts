// Goal: time moves only by hand, sleepers wake in order, and aborts and jumps behave as in life.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ManualClock } from "./manual-clock.ts";

test("manual clock: wakes sleepers in order of time, also those that sleep again", async () => {
  const clock = new ManualClock(1000);
  const woken: string[] = [];
  const again = async (): Promise<void> => {
    for (let round = 0; round < 3; round++) {
      await clock.sleep(10);
      woken.push(`${clock.monotonicMs()}`);
    }
  };
  const all = Promise.all([clock.sleep(25).then(() => woken.push("late")), again()]);
  await clock.advance(9);
  assert.deepEqual(woken, []);
  assert.equal(clock.sleeping, 2);
  await clock.advance(91);
  await all;
  assert.deepEqual(woken, ["10", "20", "late", "30"]);
  assert.equal(clock.monotonicMs(), 100);
  assert.equal(clock.nowMs(), 1100);
  assert.equal(clock.sleeping, 0);
});

test("manual clock: a sleep ends with its signal's reason", async () => {
  const clock = new ManualClock();
  const reason = new Error("enough");
  const stop = new AbortController();
  const sleep = clock.sleep(10, stop.signal);
  stop.abort(reason);
  await assert.rejects(sleep, reason);
  await assert.rejects(clock.sleep(10, AbortSignal.abort(reason)), reason);
  assert.equal(clock.sleeping, 0);
});

test("manual clock: wall time may jump, monotonic time does not", async () => {
  const clock = new ManualClock(5000);
  await clock.advance(10);
  clock.jump(100);
  assert.equal(clock.nowMs(), 100);
  assert.equal(clock.monotonicMs(), 10);
  await clock.advance(1);
  assert.equal(clock.nowMs(), 101);
});
