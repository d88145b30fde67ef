/**
 * Goal: an application that a pre script has brought to rest, in a guest that is frozen, writes again
 * within 10 s whoever is killed or stopped at whatever step of a snapshot; its post script runs, and no
 * snapshot is called better than it is. Method: cases of frozen-matrix.ts, by a seed (KLUIS_LONG: all of
 * them, in a random order), under both drivers; the guest measures by its own monotonic clock.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { createPrng, testSeed } from "#testing/seed.ts";
import { describe } from "./frozen-case.ts";
import { playLanes } from "./frozen-lanes.ts";
import { planCells, shuffle, type FrozenDriver } from "./frozen-matrix.ts";

/** Cases of each driver. */
const cases = process.env["KLUIS_LONG"] === "1" ? Infinity : 3;
const drivers: readonly FrozenDriver[] = ["qemu", "libvirt"];

test("never frozen: the application writes again within 10 s", async (t) => {
  const seed = testSeed();
  const problems: string[] = [];
  const prng = createPrng(seed);
  const report = await playLanes({
    cells: drivers.flatMap((driver) => shuffle(planCells(driver), prng).slice(0, cases)),
    lanes: drivers,
    controls: 1,
    seed,
    onOutcome: (outcome) => {
      t.diagnostic(describe(outcome));
      problems.push(...outcome.problems.map((problem) => `${describe(outcome)}: ${problem}`));
    },
  });
  assert.deepEqual([...problems, ...report.left], []);
  for (const writes of report.controlWrites) {
    assert.ok(writes > 0, "without a freeze there are writes at the instant");
  }
});
