/**
 * Kills and stops every party at every step of a snapshot, under both drivers, and measures in the guest
 * how long its application waited.
 */
import { join } from "node:path";

import { systemClock } from "#base/clock.ts";
import { createPrng } from "#testing/seed.ts";

import { describe, type FrozenOutcome } from "../test/vm/frozen-case.ts";
import { gapSecondsMost } from "../test/vm/frozen-judge.ts";
import { playLanes, type LanesReport } from "../test/vm/frozen-lanes.ts";
import { parties, planCells, shuffle, type FrozenDriver } from "../test/vm/frozen-matrix.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const wholeRounds = 10;
/** Cases without scripts, which are there to measure the watchdog and the guard, are played in each second round. */
const plainEvery = 2;
const wholeDrivers: readonly FrozenDriver[] = ["qemu", "libvirt"];
/** VMs of each driver at once; a case is mostly waiting. */
const usualLanes = 3;
/** Snapshots without a freeze that each lane takes first. */
const controls = 3;
/** Cases may be played again where nothing happened, but not more of them. */
const retriesShareMost = 0.05;
/** In a time at the instant so long an application that goes on would have written several times. */
const longWindowSeconds = 0.5;
const longWindowsLeast = 200;

/**
 * The time is between two writes that the guest's application knows to be durable, on the guest's
 * monotonic clock. Options: `--rounds=10`, `--driver=qemu|libvirt`, `--party=kluis|guard|…`, `--lanes=3`,
 * `--seed=1`.
 */
export const evidence: Evidence = {
  name: "never-frozen",
  claim:
    "whoever is killed or stopped at whatever step of a snapshot, the application writes again within 10 s",
  bar: `each party × step × SIGKILL and SIGSTOP ${wholeRounds} times under each driver, and ${wholeRounds / plainEvery} times without scripts, somebody harmed in each: ≤ ${gapSecondsMost} s every time, post ran, the freeze kept or lost as expected, no snapshot called better than it is (≥ ${longWindowsLeast} of them held for ≥ ${longWindowSeconds} s; each control without a freeze has writes there), ≤ ${retriesShareMost * 100} % played again`,
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const rounds = Number(context.options["rounds"] ?? wholeRounds);
  const lanes = Number(context.options["lanes"] ?? usualLanes);
  const seed = Number(context.options["seed"] ?? 1);
  const { driver, party } = context.options;
  // Each case starts two processes: a third of the host's work would be to compile the same sources again.
  process.env["NODE_COMPILE_CACHE"] = join(context.scratch, "compiled");
  const drivers = wholeDrivers.filter((each) => driver === undefined || each === driver);
  const prng = createPrng(seed);
  const all = drivers
    .flatMap((each) => planCells(each))
    .filter((cell) => party === undefined || cell.party === party);
  const cells = Array.from({ length: rounds }, (_, round) =>
    shuffle(all, prng).filter(({ guest }) => guest === "scripted" || round % plainEvery === 0),
  ).flat();
  if (cells.length === 0) throw new Error("no case has such a driver and such a party");
  const outcomes: FrozenOutcome[] = [];
  const startMs = systemClock.monotonicMs();
  const report = await playLanes({
    cells,
    lanes: Array.from({ length: lanes }, () => drivers).flat(),
    controls,
    seed,
    signal: context.signal,
    onOutcome: (outcome) => {
      outcomes.push(outcome);
      const elapsedMs = systemClock.monotonicMs() - startMs;
      const leftMs = (elapsedMs / outcomes.length) * (cells.length - outcomes.length);
      const progress = `${outcomes.length}/${cells.length}, ${Math.ceil(leftMs / 60_000)} min left`;
      context.log(`${progress}; ${describe(outcome)}`);
    },
  });
  for (const problem of report.left) context.log(`left behind: ${problem}`);
  const isWhole =
    rounds >= wholeRounds && drivers.length === wholeDrivers.length && party === undefined;
  const isWindowed = !isWhole || countLongWindows(outcomes) >= longWindowsLeast;
  const minutes = (systemClock.monotonicMs() - startMs) / 60_000;
  return {
    figure: `${outcomes.length} cases in ${rounds} rounds under ${drivers.join(" and ")}, in ${minutes.toFixed(0)} min; ${describeAll(outcomes, report)}`,
    holds: outcomes.length === cells.length && isWindowed && isAsPromised(outcomes, report),
    ...(isWhole ? {} : { isPartial: true }),
  };
}

function isAsPromised(outcomes: readonly FrozenOutcome[], report: LanesReport): boolean {
  const { left, retries, controlWrites } = report;
  return (
    outcomes.every(({ problems, harmed }) => problems.length === 0 && harmed > 0) &&
    left.length === 0 &&
    retries <= retriesShareMost * outcomes.length &&
    controlWrites.length > 0 &&
    controlWrites.every((writes) => writes > 0)
  );
}

function countLongWindows(outcomes: readonly FrozenOutcome[]): number {
  return outcomes.filter(({ windowSeconds }) => windowSeconds >= longWindowSeconds).length;
}

function describeAll(
  outcomes: readonly FrozenOutcome[],
  { left, retries, controlWrites }: LanesReport,
): string {
  const plain = outcomes.filter(({ cell }) => cell.guest === "plain");
  const byParty = parties
    .map((party) => ({ party, of: outcomes.filter(({ cell }) => cell.party === party) }))
    .filter(({ of }) => of.length > 0)
    .map(({ party, of }) => `${party} ${longest(of)} s`);
  const harmed = outcomes.map((outcome) => outcome.harmed);
  const wrong = outcomes.filter(({ problems }) => problems.length > 0).length;
  const isSeen = controlWrites.filter((writes) => writes > 0).length;
  return [
    `longest wait ${longest(outcomes)} s, of ${plain.length} without scripts ${longest(plain)} s; ${byParty.join(", ")}`,
    `${harmed.reduce((sum, each) => sum + each, 0)} processes harmed, ${Math.min(...harmed)} in a case at least`,
    `${countLongWindows(outcomes)} long instants without a write, ${isSeen} of ${controlWrites.length} controls with writes`,
    `${retries} played again, ${wrong} cases with a problem, ${left.length} things left behind`,
  ].join("; ");
}

function longest(outcomes: readonly FrozenOutcome[]): string {
  return Math.max(...outcomes.map(({ gapSeconds }) => gapSeconds)).toFixed(2);
}
