// Goal: figures have one form, fit their column, and carry nothing that moves a cursor.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { testSeed } from "#testing/seed.ts";
import {
  formatBytes,
  formatDuration,
  formatRate,
  formatTable,
  formatTime,
  printable,
} from "./format.ts";

test("format: bytes have three digits and binary units", () => {
  const cases: readonly (readonly [number, string])[] = [
    [0, "0 B"],
    [999, "999 B"],
    [1000, "0.98 KiB"],
    [1024, "1.00 KiB"],
    [10_240, "10.0 KiB"],
    [1024 * 1023, "1.00 MiB"],
    [1024 ** 3 * 1.5, "1.50 GiB"],
    [1024 ** 4 * 123.4, "123 TiB"],
    [-5, "0 B"],
  ];
  for (const [bytes, text] of cases) assert.equal(formatBytes(bytes), text);
  assert.equal(formatRate(2048), "2.00 KiB/s");
});

test("format: bytes never take more than eight characters", () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), (bytes) => {
      assert.ok(formatBytes(bytes).length <= 8, formatBytes(bytes));
    }),
    { seed: testSeed() },
  );
});

test("format: durations grow from milliseconds to hours without a jump", () => {
  const cases: readonly (readonly [number, string])[] = [
    [0.4, "0 ms"],
    [999.4, "999 ms"],
    [999.6, "1.0 s"],
    [59_949, "59.9 s"],
    [59_950, "1:00 min"],
    [187_000, "3:07 min"],
    [3_599_600, "1:00:00 h"],
    [7_387_000, "2:03:07 h"],
  ];
  for (const [ms, text] of cases) assert.equal(formatDuration(ms), text);
  assert.equal(formatTime(0), "1970-01-01 00:00:00Z");
});

test("format: tables align, and keep no blanks at the end of a line", () => {
  const lines = formatTable(
    [{ head: "NAME" }, { head: "SIZE", align: "right" }, { head: "NOTE" }],
    [
      ["vda", "1 B", "überlang"],
      ["a-long-name", "1234 B", ""],
    ],
  );
  assert.deepEqual(lines, [
    "NAME           SIZE  NOTE",
    "vda             1 B  überlang",
    "a-long-name  1234 B",
  ]);
});

test("format: control characters of names do not reach the terminal", () => {
  assert.equal(printable("a\u001b[2Jb\nc\u009b"), "a?[2Jb?c?");
});
