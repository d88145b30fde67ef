/**
 * Kills and stops every party at every step of a snapshot, under both drivers, and measures in the guest
 * how long its application waited.
 */
import { createPrng } from "#testing/seed.ts";

import { describe, type FrozenOutcome } from "../test/vm/frozen-case.ts";
import { gapSecondsMost } from "../test/vm/frozen-judge.ts";
import { playLanes } from "../test/vm/frozen-lanes.ts";
import { parties, planCells, shuffle, type FrozenDriver } from "../test/vm/frozen-matrix.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const wholeRounds = 10;
const wholeDrivers: readonly FrozenDriver[] = ["qemu", "libvirt"];
/** VMs of each driver at once; a case is mostly waiting. */
const usualLanes = 2;

/**
 * The time is between two writes that the guest's application knows to be durable, on the guest's
 * monotonic clock. Options: `--rounds=10`, `--driver=qemu|libvirt`, `--lanes=2`, `--seed=1`.
 */
export const evidence: Evidence = {
  name: "never-frozen",
  claim:
    "whoever is killed or stopped at whatever step of a snapshot, the application writes again within 10 s",
  bar: `each party × step × SIGKILL and SIGSTOP ${wholeRounds} times under each driver: ≤ ${gapSecondsMost} s every time, post ran, no snapshot called better than it is`,
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const rounds = Number(context.options["rounds"] ?? wholeRounds);
  const lanes = Number(context.options["lanes"] ?? usualLanes);
  const seed = Number(context.options["seed"] ?? 1);
  const { driver } = context.options;
  const drivers = wholeDrivers.filter((each) => driver === undefined || each === driver);
  const outcomes: FrozenOutcome[] = [];
  const play = (each: FrozenDriver): Promise<readonly string[]> => {
    const prng = createPrng(seed);
    const cells = Array.from({ length: rounds }, () => shuffle(planCells(each), prng)).flat();
    return playLanes({
      cells,
      lanes,
      seed,
      signal: context.signal,
      onOutcome: (outcome) => {
        outcomes.push(outcome);
        context.log(describe(outcome));
      },
    });
  };
  const left = (await Promise.all(drivers.map(play))).flat();
  for (const problem of left) context.log(`left behind: ${problem}`);
  const wrong = outcomes.filter(({ problems }) => problems.length > 0).length;
  const isWhole = rounds >= wholeRounds && drivers.length === wholeDrivers.length;
  return {
    figure: `${outcomes.length} cases, ${rounds} of each under ${drivers.join(" and ")}; longest wait ${longest(outcomes)} s; ${byParty(outcomes)}; ${wrong} cases with a problem, ${left.length} things left behind`,
    holds: isWhole && outcomes.length > 0 && wrong === 0 && left.length === 0,
    ...(isWhole ? {} : { isPartial: true }),
  };
}

function byParty(outcomes: readonly FrozenOutcome[]): string {
  return parties
    .map((party) => ({ party, of: outcomes.filter(({ cell }) => cell.party === party) }))
    .filter(({ of }) => of.length > 0)
    .map(({ party, of }) => `${party} ${longest(of)} s`)
    .join(", ");
}

function longest(outcomes: readonly FrozenOutcome[]): string {
  return Math.max(...outcomes.map(({ gapSeconds }) => gapSeconds)).toFixed(2);
}
