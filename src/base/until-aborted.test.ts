// Goal: a wait ends with the work or the abort, whichever is first, and leaves no listener behind.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import { untilAborted } from "./until-aborted.ts";

test("until aborted: settles as the work does, with or without a signal", async () => {
  const { signal } = new AbortController();
  for (const given of [undefined, signal]) {
    assert.equal(await untilAborted(Promise.resolve(5), given), 5);
    await assert.rejects(untilAborted(Promise.reject(new Error("no")), given), /no/);
  }
  await new Promise(setImmediate);
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("until aborted: rejects with the reason, before and during the wait; the work goes on", async () => {
  const controller = new AbortController();
  const { promise, resolve } = Promise.withResolvers<number>();
  const waits = [untilAborted(promise, controller.signal), untilAborted(promise, undefined)];
  controller.abort(new Error("enough"));
  await assert.rejects(waits[0] as Promise<number>, /enough/);
  await assert.rejects(untilAborted(promise, controller.signal), /enough/);
  resolve(7);
  assert.equal(await waits[1], 7);
  await new Promise(setImmediate);
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
});
