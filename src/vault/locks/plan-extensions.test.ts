// Goal: what a recovery point needs gets a longer lock before its lock ends, garbage never does, and
// nothing is left out where the need cannot be told. By cases.
import assert from "node:assert/strict";
import { test } from "node:test";

import { planExtensions } from "./plan-extensions.ts";

const uses = [
  { name: "packs/a", segment: "index/1", marked: 3 },
  { name: "packs/b", segment: "index/1", marked: 0 },
  { name: "packs/c", segment: "index/2", marked: 0 },
  { name: "packs/d", segment: "index/3", marked: 1 },
];

test("lock extensions: what is needed and due, with the segments that name it", () => {
  const due = new Set([
    "packs/a",
    "packs/b",
    "packs/c",
    "index/1",
    "index/2",
    "index/3",
    "packs/x",
  ]);
  assert.deepEqual(planExtensions(due, uses).toSorted(), ["index/1", "index/3", "packs/a"]);
});

test("lock extensions: nothing where nothing is due", () => {
  assert.deepEqual(planExtensions(new Set(), uses), []);
});

test("lock extensions: everything that is due where nothing could be marked", () => {
  const due = new Set(["packs/c", "index/2"]);
  assert.deepEqual(planExtensions(due, undefined), ["packs/c", "index/2"]);
});
