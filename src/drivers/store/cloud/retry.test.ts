// Goal: pauses are within their bounds and as long as the service asked for; the budget ends.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { testSeed } from "#testing/seed.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import {
  budgetEarned,
  budgetRetriesMax,
  pauseBaseMs,
  pauseMaxMs,
  planPauseMs,
  retryAfterMaxMs,
  RetryBudget,
} from "./retry.ts";

test("retry: a pause grows to its bound, jitters from zero, and keeps to what was asked for", () => {
  const random = createSeededRandom("retry");
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2000 }), fc.option(fc.nat()), (attempt, asked) => {
      const pauseMs = planPauseMs(attempt, asked ?? undefined, random);
      const wantedMs = Math.min(asked ?? 0, retryAfterMaxMs);
      const mostMs = wantedMs === 0 ? Math.min(pauseMaxMs, pauseBaseMs * 2 ** (attempt - 1)) : 0;
      assert.ok(pauseMs >= wantedMs && pauseMs <= Math.max(wantedMs + pauseBaseMs, mostMs));
    }),
    { seed: testSeed() },
  );
  const pauses = Array.from({ length: 200 }, () => planPauseMs(3, undefined, random));
  assert.ok(Math.min(...pauses) < 100 && Math.max(...pauses) > 300, "full jitter");
});

test("retry: the budget is spent, and earned back by what succeeds", () => {
  const budget = new RetryBudget();
  for (let at = 0; at < budgetRetriesMax; at++) assert.ok(budget.spend());
  assert.ok(!budget.spend());
  for (let at = 0; at < 1 / budgetEarned; at++) budget.earn();
  assert.ok(budget.spend());
  assert.ok(!budget.spend());
});
