/**
 * Goal: whatever happens to a VM between and during backups, with and without a snapshot tier, each
 * recovery point is, byte for byte, what was there at its instant, and costs what changed. Method: random rounds (the whole run is `evidence/exactness-*.ts`);
 * qemu-img and a second run of the guest's jobs on the host are the witnesses.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { testSeed } from "#testing/seed.ts";
import { runRounds } from "./exactness/run-rounds.ts";

const growthMost = 1.3;
const isLong = process.env["KLUIS_LONG"] === "1";
/** A round under libvirt takes twice as long. */
const rounds = { qemu: isLong ? 60 : 2, libvirt: isLong ? 30 : 1 };

for (const driver of ["qemu", "libvirt"] as const) {
  test(`exactness: ${driver}: each recovery point is what was frozen, and costs what changed`, async (t) => {
    const figures = await runRounds({
      driver,
      rounds: rounds[driver],
      seed: testSeed(),
      log: (line) => {
        t.diagnostic(line);
      },
    });
    assert.deepEqual(figures.mismatches, []);
    assert.deepEqual(figures.surprises, []);
    assert.ok(figures.worstGrowth <= growthMost, `growth ${figures.worstGrowth}`);
  });
}
