// Goal: no name that passes can leave a store's folder or reach a driver's own files.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { assertObjectName, assertObjectPrefix, isObjectName } from "./object-name.ts";

const good = ["vault.json", "a", "a/b", "packs/00/0", "a..b/c-d_e", "-", "tmpx", "a/tmp", "a.b.c"];
const bad = [
  ["", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", "a/./b", ".a", "a/.b", "A", "a b"],
  ["a\\b", "a\0", "é", "a\n", "tmp", "tmp/a", `a/${"b".repeat(199)}`, "a:b", "~", "%2e%2e/a"],
].flat();

test("object name: accepts the names of the port and nothing else", () => {
  for (const name of good) assert.ok(isObjectName(name), name);
  for (const name of bad) {
    assert.ok(!isObjectName(name), name);
    assert.throws(
      () => {
        assertObjectName(name);
      },
      (error) => isKluisError(error, "ArgumentInvalid") && !error.message.includes("\n"),
    );
  }
  assert.ok(isObjectName("b".repeat(200)));
});

test("object name: a prefix is empty or names a folder", () => {
  for (const prefix of ["", "a/", "packs/00/"]) assertObjectPrefix(prefix);
  for (const prefix of ["a", "/", "../", "a//", "tmp/", "a/../"]) {
    assert.throws(
      () => {
        assertObjectPrefix(prefix);
      },
      (error) => isKluisError(error, "ArgumentInvalid"),
    );
  }
});
