import assert from "node:assert/strict";
import { test } from "node:test";

import { staleExceptions, withoutExceptions } from "./findings.ts";

const finding = { rule: "doors", path: "src/a.ts", line: 1, message: "m" };

test("exceptions: cover one rule in one file", () => {
  const list = [{ rule: "doors", path: "src/a.ts", reason: "why" }];
  assert.deepEqual(withoutExceptions([finding], list), []);
  assert.equal(withoutExceptions([{ ...finding, path: "src/b.ts" }], list).length, 1);
  assert.equal(withoutExceptions([{ ...finding, rule: "layers" }], list).length, 1);
});

test("exceptions: are stale when nothing needs them", () => {
  const list = [{ rule: "doors", path: "src/gone.ts", reason: "why" }];
  assert.equal(staleExceptions("doors", [finding], list).length, 1);
  assert.equal(staleExceptions("layers", [finding], list).length, 0);
});
