/** The bar on random rounds of changes, faults and backups, one for each driver. */
import { createPrng } from "#testing/seed.ts";

import type { DriverName } from "../../test/vm/exactness/exact-vm.ts";
import { faultKindsOf } from "../../test/vm/exactness/plan-rounds.ts";
import { runRounds, type ExactnessFigures } from "../../test/vm/exactness/run-rounds.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "./evidence.ts";

const wholeRounds = 200;
const faultsLeast = 20;
/** Points that were acknowledged, or found, after a fault during their backup. */
const underFaultLeast = 10;
/** Rounds without a snapshot tier whose changes came from bitmaps. */
const bitmapRoundsLeast = 15;
const growthMost = 1.3;
const seedsMost = 0x7fff_ffff;

/**
 * The evidence that every recovery point is what was frozen, and costs what changed.
 * Options: `--rounds=N` for a try, `--seed=N` to repeat a run.
 */
export function createExactnessBar(name: string, driver: DriverName): Evidence {
  return {
    name,
    claim: `${driver}: whatever happens to a VM, with and without a snapshot tier, each recovery point is byte for byte what was there at its instant, and costs what changed`,
    bar: `${wholeRounds} rounds, each fault ≥ ${faultsLeast} times, ≥ ${underFaultLeast} points of backups under one, ≥ ${bitmapRoundsLeast} rounds by bitmaps, 0 mismatches, store grows by ≤ ${growthMost} of the pages written or discarded`,
    run: (context) => measure(driver, context),
  };
}

async function measure(driver: DriverName, context: EvidenceContext): Promise<EvidenceOutcome> {
  const rounds = Number(context.options["rounds"] ?? wholeRounds);
  const fresh = createPrng(Math.trunc(performance.timeOrigin)).below(seedsMost);
  const seed = Number(context.options["seed"] ?? fresh);
  context.log(`seed ${seed} (repeat with --seed=${seed})`);
  const log = (line: string): void => {
    context.log(line);
  };
  const figures = await runRounds({ driver, rounds, seed, log, signal: context.signal });
  const { mismatches, surprises, faults } = figures;
  for (const line of [...mismatches, ...surprises]) log(line);
  const kinds = faultKindsOf(driver);
  const holds =
    figures.rounds >= wholeRounds &&
    mismatches.length === 0 &&
    surprises.length === 0 &&
    figures.trackedRounds > 0 &&
    figures.bitmapRounds >= bitmapRoundsLeast &&
    figures.pointsUnderFault >= underFaultLeast &&
    figures.worstGrowth <= growthMost &&
    kinds.every((kind) => (faults.get(kind) ?? 0) >= faultsLeast);
  const isTry = rounds !== wholeRounds;
  return { figure: describe(figures, seed), holds, ...(isTry ? { isPartial: true } : {}) };
}

function describe(figures: ExactnessFigures, seed: number): string {
  const { rounds, faults, writtenBytes, mismatches, surprises } = figures;
  const counts = [...faults].map(([kind, count]) => `${kind} ${count}`).sort();
  const growth = Math.ceil(figures.worstGrowth * 1000) / 1000;
  const refused = figures.refusals === 0 ? "" : `; ${figures.refusals} backups after a restart`;
  return `${rounds} rounds, ${writtenBytes} B written, ${counts.join(", ")}; ${mismatches.length} mismatches; growth ≤ ${growth} in ${figures.trackedRounds} rounds tracked by snapshots and ${figures.bitmapRounds} by bitmaps; ${figures.pointsUnderFault} points of backups under a fault; ${surprises.length} disks untracked without cause${refused}; seed ${seed}`;
}
