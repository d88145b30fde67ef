// Goal: a lock never ends before the period has passed, nor later than a generation after that; a
// policy has one encoding. By hand-picked and random times.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import { encodeLockPolicy, lockEndOf, parseLockPolicy } from "./lock-policy.ts";

const dayMs = 24 * 3600 * 1000;

test("lock policy: a lock ends with a generation, a period later at least", () => {
  const policy = { periodMs: 30 * dayMs, generationMs: 10 * dayMs };
  assert.equal(lockEndOf(0, policy), 30 * dayMs);
  assert.equal(lockEndOf(1, policy), 40 * dayMs);
  assert.equal(lockEndOf(10 * dayMs, policy), 40 * dayMs);
  const spans = fc.integer({ min: 1, max: 4000 * dayMs });
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 2 ** 42 }),
      spans,
      spans,
      (nowMs, periodMs, generationMs) => {
        const leftMs = lockEndOf(nowMs, { periodMs, generationMs }) - nowMs;
        assert.ok(leftMs >= periodMs && leftMs < periodMs + generationMs);
      },
    ),
    { seed: testSeed() },
  );
});

test("lock policy: comes back as it was written, and nothing else is one", () => {
  const policy = { periodMs: 30 * dayMs, generationMs: 10 * dayMs };
  const text = new TextDecoder().decode(encodeLockPolicy(policy));
  assert.deepEqual(parseLockPolicy(encodeLockPolicy(policy)), policy);
  for (const bad of [
    "",
    "{}\n",
    text.trim(),
    text.replace("1,", "1, "),
    text.replace("259", "-59"),
  ]) {
    assert.throws(
      () => parseLockPolicy(new TextEncoder().encode(bad)),
      (error) => isKluisError(error, "ObjectCorrupt"),
    );
  }
  const newer = new TextEncoder().encode(text.replace('"version":1', '"version":2'));
  assert.throws(
    () => parseLockPolicy(newer),
    (error) => isKluisError(error, "StoreFormatNewer"),
  );
});
