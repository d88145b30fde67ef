/** The bar on random rounds of changes, faults and backups, one for each driver. */
import { createPrng } from "#testing/seed.ts";

import type { DriverName } from "../../test/vm/exactness/exact-vm.ts";
import { faultKindsOf, type FaultKind } from "../../test/vm/exactness/plan-rounds.ts";
import {
  runRounds,
  type ExactnessFigures,
  type ExactnessOptions,
} from "../../test/vm/exactness/run-rounds.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "./evidence.ts";

const wholeRounds = 200;
/** VMs at a time: half of a round is waiting for one of them. */
const lanes = 2;
const faultsLeast = 20;
/** Points that were acknowledged, or found, after a fault during their backup. */
const underFaultLeast = 10;
/** Rounds without a snapshot tier whose changes came from bitmaps. */
const bitmapRoundsLeast = 15;
const growthMost = 1.3;
const seedsMost = 0x7fff_ffff;

/**
 * The evidence that every recovery point is what was frozen, and costs what changed.
 * Options: `--rounds=N` for a try (shared by the VMs), `--seed=N` to repeat a run.
 */
export function createExactnessBar(name: string, driver: DriverName): Evidence {
  return {
    name,
    claim: `${driver}: whatever happens to a VM, with and without a snapshot tier, each recovery point is byte for byte what was there at its instant, and costs what changed`,
    bar: `${wholeRounds} rounds, each fault ≥ ${faultsLeast} times, ≥ ${underFaultLeast} points of backups under one, ≥ ${bitmapRoundsLeast} rounds by bitmaps, 0 mismatches, store grows by ≤ ${growthMost} of the pages written or discarded (not judged where copies hold up a thaw)`,
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
  const figures = await runLanes({ driver, rounds, seed, log, signal: context.signal });
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

/** Shares the rounds among VMs, each with a seed of its own. What fails in one ends the others. */
async function runLanes(
  plan: ExactnessOptions & { readonly signal: AbortSignal },
): Promise<ExactnessFigures> {
  const { rounds, seed, log } = plan;
  const failed = new AbortController();
  const signal = AbortSignal.any([plan.signal, failed.signal]);
  const done = await Promise.allSettled(
    Array.from({ length: lanes }, async (_, lane) => {
      const share = Math.floor((rounds + lane) / lanes);
      const tell = (line: string): void => {
        log(`VM ${lane + 1}: ${line}`);
      };
      try {
        return await runRounds({ ...plan, rounds: share, seed: seed + lane, log: tell, signal });
      } catch (error) {
        failed.abort(error);
        throw error;
      }
    }),
  );
  failed.signal.throwIfAborted();
  return mergeFigures(done.flatMap((each) => (each.status === "fulfilled" ? [each.value] : [])));
}

function mergeFigures(all: readonly ExactnessFigures[]): ExactnessFigures {
  const sum = (of: (each: ExactnessFigures) => number): number =>
    all.reduce((total, each) => total + of(each), 0);
  const faults = new Map<FaultKind, number>();
  for (const [kind, count] of all.flatMap((each) => [...each.faults])) {
    faults.set(kind, (faults.get(kind) ?? 0) + count);
  }
  return {
    rounds: sum((each) => each.rounds),
    faults,
    writtenBytes: sum((each) => each.writtenBytes),
    mismatches: all.flatMap((each) => each.mismatches),
    trackedRounds: sum((each) => each.trackedRounds),
    bitmapRounds: sum((each) => each.bitmapRounds),
    pointsUnderFault: sum((each) => each.pointsUnderFault),
    worstGrowth: Math.max(...all.map((each) => each.worstGrowth)),
    surprises: all.flatMap((each) => each.surprises),
    refusals: sum((each) => each.refusals),
  };
}

function describe(figures: ExactnessFigures, seed: number): string {
  const { rounds, faults, writtenBytes, mismatches, surprises } = figures;
  const counts = [...faults].map(([kind, count]) => `${kind} ${count}`).sort();
  const growth = Math.ceil(figures.worstGrowth * 1000) / 1000;
  const refused = figures.refusals === 0 ? "" : `; ${figures.refusals} backups after a restart`;
  return `${rounds} rounds, ${writtenBytes} B written, ${counts.join(", ")}; ${mismatches.length} mismatches; growth ≤ ${growth} in ${figures.trackedRounds} rounds tracked by snapshots and ${figures.bitmapRounds} by bitmaps; ${figures.pointsUnderFault} points of backups under a fault; ${surprises.length} disks untracked without cause${refused}; seed ${seed}`;
}
