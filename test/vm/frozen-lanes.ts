/** Plays cases of never-frozen on some VMs at once, since most of a case is waiting. */
import { createPrng } from "#testing/seed.ts";
import { findLeftovers, playCell, tidyUp, type FrozenOutcome } from "./frozen-case.ts";
import type { FrozenCell } from "./frozen-matrix.ts";
import { startFrozenVm, type FrozenVm } from "./frozen-vm.ts";

/** Each case leaves a layer; more would slow the next ones down. */
const casesBetweenReleases = 6;

/** A busy host may have no time for the guest's scripts, so that a step does not come. */
const triesMost = 3;

/** What is played. */
export interface FrozenPlan {
  /** All of one driver. */
  readonly cells: readonly FrozenCell[];
  /** How many VMs. */
  readonly lanes: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly onOutcome: (outcome: FrozenOutcome) => void;
}

/** Plays every case, and then looks for what they left; returns what was left, in words. */
export async function playLanes(plan: FrozenPlan): Promise<readonly string[]> {
  const queue = [...plan.cells];
  const lanes = Array.from({ length: plan.lanes }, (_, lane) => playLane(plan, queue, lane));
  return (await Promise.all(lanes)).flat();
}

async function playLane(
  plan: FrozenPlan,
  queue: FrozenCell[],
  lane: number,
): Promise<readonly string[]> {
  const prng = createPrng(plan.seed + lane);
  const [first] = queue;
  if (first === undefined) return [];
  let vm: FrozenVm | undefined;
  const left: string[] = [];
  try {
    for (let played = 1; ; played += 1) {
      plan.signal?.throwIfAborted();
      const cell = queue.shift();
      if (cell === undefined) break;
      vm ??= await startFrozenVm(first.driver);
      const outcome = await playOrTell(cell, vm, prng);
      plan.onOutcome(outcome);
      if (outcome.problems.length > 0) {
        // The next case is to say something of itself.
        await vm[Symbol.asyncDispose]();
        vm = undefined;
      } else if (played % casesBetweenReleases === 0) await tidyUp(vm);
    }
    if (vm !== undefined) left.push(...(await findLeftovers(vm)));
  } finally {
    await vm?.[Symbol.asyncDispose]();
  }
  return left;
}

/** A case that cannot be played to its end is one that went wrong. */
async function playOrTell(
  cell: FrozenCell,
  vm: FrozenVm,
  prng: ReturnType<typeof createPrng>,
): Promise<FrozenOutcome> {
  try {
    for (let tries = 1; ; tries += 1) {
      const outcome = await playCell(cell, vm, prng);
      if (outcome.isReached || tries === triesMost) return outcome;
    }
  } catch (error) {
    const outcome = (error as Error).message;
    const problems = ["it could not be played to its end"];
    return { cell, gapSeconds: Infinity, outcome, problems, isReached: false };
  }
}
