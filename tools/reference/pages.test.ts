import assert from "node:assert/strict";
import { test } from "node:test";

import { errorRegistry } from "#base/error-codes.ts";

import { exitMeanings, referencePages } from "./pages.ts";

test("reference: every exit code of the registry has a meaning, and no other has", () => {
  const used = new Set([0, ...Object.values(errorRegistry).map((entry) => entry.exit)]);
  assert.deepEqual(
    Object.keys(exitMeanings).map(Number),
    [...used].sort((a, b) => a - b),
  );
});

test("reference: every code has a section and a row", () => {
  const [errors, exits] = referencePages();
  for (const code of Object.keys(errorRegistry)) {
    assert.ok(errors?.text.includes(`\n## ${code}\n`), code);
    assert.ok(exits?.text.includes(`[${code}](`), code);
  }
});
