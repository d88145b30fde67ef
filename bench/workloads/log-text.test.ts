/** Goal: workload P is the same on every machine. Method: its text is cut in different ways. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { LogText } from "./log-text.ts";

test("log text: is the same however it is cut", () => {
  const whole = new Uint8Array(600_000);
  new LogText(7).writeInto(whole);
  const parts = new Uint8Array(whole.byteLength);
  const text = new LogText(7);
  for (let at = 0, length = 1; at < parts.byteLength; at += length, length = length * 3 + 1) {
    text.writeInto(parts.subarray(at, at + length));
  }
  assert.equal(Buffer.compare(whole, parts), 0);
});

test("log text: holds lines with ascending times and differs by seed", () => {
  const text = new Uint8Array(100_000);
  new LogText(1).writeInto(text);
  const lines = Buffer.from(text).toString("latin1").split("\n").slice(0, -1);
  const times = lines.map((line) => line.slice(0, "YYYY-MM-DDThh:mm:ss.mmmZ".length));
  assert.ok(lines.length > 400);
  assert.deepEqual(times, times.toSorted());
  assert.match(lines[0] ?? "", /^2026-01-05T06:00:00\.\d{3}Z node\d \w+\[\d+\]: /);
  const other = new Uint8Array(1000);
  new LogText(2).writeInto(other);
  assert.notEqual(Buffer.compare(other, text.subarray(0, 1000)), 0);
});
