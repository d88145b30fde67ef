// Goal: retention keeps the newest point of each period that a rule counts, and the newest of all.
// Method: cases by hand, and random points against a definition that is written down once more.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { planRetention, type RetentionRules } from "./retention.ts";

function pointsAt(...times: readonly string[]) {
  return times.map((time) => ({ pointId: time, takenAtMs: Date.parse(time) }));
}

function keptOf(times: readonly string[], rules: RetentionRules): readonly string[] {
  const plan = planRetention(pointsAt(...times), rules);
  assert.equal(plan.length, times.length);
  return plan.flatMap(({ point, keptBy }) => (keptBy.length > 0 ? [point.pointId] : []));
}

test("retention: keeps the newest of each period", () => {
  const times = [
    "2026-01-01T10:00Z",
    "2026-01-01T22:00Z",
    "2026-01-04T23:59Z",
    "2026-01-05T00:00Z",
    "2026-02-01T00:00Z",
  ];
  assert.deepEqual(keptOf(times, { last: 2 }), [times[4], times[3]]);
  assert.deepEqual(keptOf(times, { daily: 3 }), [times[4], times[3], times[2]]);
  // The 5th of January 2026 is a Monday.
  assert.deepEqual(keptOf(times, { weekly: 3 }), [times[4], times[3], times[2]]);
  assert.deepEqual(keptOf(times, { monthly: 5 }), [times[4], times[3]]);
  assert.deepEqual(
    keptOf(times, { yearly: 1, daily: 9 }),
    [4, 3, 2, 1].map((at) => times[at]),
  );
});

test("retention: refuses to delete all", () => {
  for (const rules of [{}, { last: 0 }]) {
    assert.throws(
      () => planRetention(pointsAt("2026-01-01T10:00Z"), rules),
      (error) => isKluisError(error, "ArgumentInvalid"),
    );
  }
});

test("retention: agrees with its definition on random points", () => {
  const random = createSeededRandom("retention");
  for (let round = 0; round < 200; round++) {
    const times = Array.from({ length: random.integer(1, 40) }, () =>
      Date.UTC(2026, 0, random.integer(1, 20), random.integer(0, 23)),
    );
    const points = times
      .toSorted((a, b) => a - b)
      .map((takenAtMs, at) => ({ pointId: String(at).padStart(3, "0"), takenAtMs }));
    const daily = random.integer(1, 10);
    const plan = planRetention(points, { daily });
    const byDay = new Map<number, (typeof points)[number]>();
    for (const point of points) {
      const day = Math.floor(point.takenAtMs / 86_400_000);
      const best = byDay.get(day);
      const isNewer = (best?.takenAtMs ?? -1) <= point.takenAtMs;
      if (isNewer) byDay.set(day, point);
    }
    const days = [...byDay].sort(([a], [b]) => b - a).slice(0, daily);
    const expected = new Set(days.map(([, point]) => point.pointId));
    const kept = plan.flatMap(({ point, keptBy }) => (keptBy.length > 0 ? [point.pointId] : []));
    assert.deepEqual(new Set(kept), expected);
  }
});
