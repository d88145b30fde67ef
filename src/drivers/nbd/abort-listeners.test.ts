// Goal: each request hears of the abort of its own signal, once and only while it waits; a signal has one
// listener whatever the number of requests under it, and none when there are none.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import { AbortListeners } from "./abort-listeners.ts";

test("abort listeners: tell those that wait, and no others", () => {
  const listeners = new AbortListeners();
  const [first, second] = [new AbortController(), new AbortController()];
  const told: string[] = [];
  const acts = ["a", "b", "c", "d"].map((name) => () => {
    told.push(name);
  });
  const [a, b, c, d] = acts as [() => void, () => void, () => void, () => void];
  for (const act of [a, b, c]) listeners.add(first.signal, act);
  listeners.add(second.signal, d);
  assert.equal(getEventListeners(first.signal, "abort").length, 1);
  listeners.remove(first.signal, b);
  first.abort();
  assert.deepEqual(told, ["a", "c"]);
  for (const act of [a, c]) listeners.remove(first.signal, act);
  listeners.remove(second.signal, d);
  assert.equal(getEventListeners(second.signal, "abort").length, 0);
  second.abort();
  assert.deepEqual(told, ["a", "c"]);
});

test("abort listeners: one that is removed by the one before it is not told", () => {
  const listeners = new AbortListeners();
  const { signal, abort } = withSignal();
  const told: string[] = [];
  const last = (): void => {
    told.push("last");
  };
  const first = (): void => {
    told.push("first");
    listeners.remove(signal, first);
    listeners.remove(signal, last);
  };
  listeners.add(signal, first);
  listeners.add(signal, last);
  abort();
  assert.deepEqual(told, ["first"]);
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

function withSignal(): { readonly signal: AbortSignal; readonly abort: () => void } {
  const controller = new AbortController();
  return { signal: controller.signal, abort: () => controller.abort() };
}
