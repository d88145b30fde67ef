/** Plays cases of never-frozen on some VMs at once, since most of a case is waiting. */
import { createPrng } from "#testing/seed.ts";
import type { Prng } from "#testing/seed.ts";
import { findLeftovers, playCell, playControl, tidyUp, type FrozenOutcome } from "./frozen-case.ts";
import type { FrozenCell, FrozenDriver } from "./frozen-matrix.ts";
import { startFrozenVm, type FrozenVm } from "./frozen-vm.ts";

/** Each case leaves a layer; more would slow the next ones down. */
const casesBetweenReleases = 6;

/** A busy host may have no time for the guest's scripts, so that a step does not come. */
const triesMost = 3;

/** What is played. */
export interface FrozenPlan {
  readonly cells: readonly FrozenCell[];
  /** The driver that each VM begins with; it goes on with what others leave over. */
  readonly lanes: readonly FrozenDriver[];
  /** Snapshots without a freeze that each lane takes first; see {@link playControl}. */
  readonly controls: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly onOutcome: (outcome: FrozenOutcome) => void;
}

/** What was found beside the cases. */
export interface LanesReport {
  /** What the cases left, in words. */
  readonly left: readonly string[];
  /** Cases that were played again, because nothing had happened. */
  readonly retries: number;
  /** Of each control how many writes were found at its instant. */
  readonly controlWrites: readonly number[];
}

/** Plays every case, and then looks for what they left. */
export async function playLanes(plan: FrozenPlan): Promise<LanesReport> {
  const queues = new Map<FrozenDriver, FrozenCell[]>();
  for (const cell of plan.cells) {
    const queue = queues.get(cell.driver) ?? [];
    queues.set(cell.driver, [...queue, cell]);
  }
  const lanes = plan.lanes.map(async (driver, at) => {
    await using lane = new Lane(plan, queues, { driver, prng: createPrng(plan.seed + at) });
    return lane.play();
  });
  const reports = await Promise.all(lanes);
  return {
    left: reports.flatMap(({ left }) => left),
    retries: reports.reduce((sum, { retries }) => sum + retries, 0),
    controlWrites: reports.flatMap(({ controlWrites }) => controlWrites),
  };
}

/** One VM after the other. */
class Lane implements AsyncDisposable {
  readonly #plan: FrozenPlan;
  readonly #queues: ReadonlyMap<FrozenDriver, FrozenCell[]>;
  readonly #prng: Prng;
  readonly #left: string[] = [];
  readonly #controlWrites: number[] = [];
  #driver: FrozenDriver;
  #vm: FrozenVm | undefined;
  #retries = 0;

  constructor(
    plan: FrozenPlan,
    queues: ReadonlyMap<FrozenDriver, FrozenCell[]>,
    start: { readonly driver: FrozenDriver; readonly prng: Prng },
  ) {
    this.#plan = plan;
    this.#queues = queues;
    this.#prng = start.prng;
    this.#driver = start.driver;
  }

  async play(): Promise<LanesReport> {
    for (let at = 0; at < this.#plan.controls; at += 1) {
      this.#vm ??= await startFrozenVm(this.#driver);
      this.#controlWrites.push(await playControl(this.#vm, this.#prng));
    }
    for (let played = 1; ; played += 1) {
      this.#plan.signal?.throwIfAborted();
      const cell = this.#next();
      if (cell === undefined) break;
      if (cell.driver !== this.#driver) {
        await this.#leaveVm();
        this.#driver = cell.driver;
      }
      this.#vm ??= await startFrozenVm(this.#driver);
      const outcome = await this.#playOrTell(cell, this.#vm);
      this.#plan.onOutcome(outcome);
      // After a problem the next case is to say something of itself.
      if (outcome.problems.length > 0) await this[Symbol.asyncDispose]();
      else if (played % casesBetweenReleases === 0) await tidyUp(this.#vm);
    }
    await this.#leaveVm();
    return { left: this.#left, retries: this.#retries, controlWrites: this.#controlWrites };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const vm = this.#vm;
    this.#vm = undefined;
    await vm?.[Symbol.asyncDispose]();
  }

  #next(): FrozenCell | undefined {
    const own = this.#queues.get(this.#driver)?.shift();
    if (own !== undefined) return own;
    return [...this.#queues.values()].find((queue) => queue.length > 0)?.shift();
  }

  async #leaveVm(): Promise<void> {
    if (this.#vm !== undefined) this.#left.push(...(await findLeftovers(this.#vm)));
    await this[Symbol.asyncDispose]();
  }

  /** A case that cannot be played to its end is one that went wrong. */
  async #playOrTell(cell: FrozenCell, vm: FrozenVm): Promise<FrozenOutcome> {
    try {
      for (let number = 1; ; number += 1) {
        const isLast = number === triesMost;
        const outcome = await playCell(cell, vm, { prng: this.#prng, number, isLast });
        if (!outcome.isVoid || isLast) return outcome;
        this.#retries += 1;
      }
    } catch (error) {
      return {
        cell,
        gapSeconds: Infinity,
        outcome: (error as Error).message,
        problems: ["it could not be played to its end"],
        harmed: 0,
        isVoid: false,
        windowSeconds: 0,
      };
    }
  }
}
