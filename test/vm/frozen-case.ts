/**
 * Plays one case of never-frozen: a child process takes an application-consistent snapshot; at a step
 * a party is killed, or stopped until the application has gone on; the guest says how long it waited.
 */
import { systemClock } from "#base/clock.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { ConsistencyRecord, SnapshotRequest } from "#ports/hypervisor.ts";
import type { Prng } from "#testing/seed.ts";
import { ChildRun, type ChildMessage, type ChildPlan } from "./child-run.ts";
import { Harm, harmedLeast, readGuard } from "./frozen-harm.ts";
import { countWritesIn, judge, windowOf, type Instant } from "./frozen-judge.ts";
import { nameOf, type FrozenCell, type FrozenStep } from "./frozen-matrix.ts";
import type { FrozenVm } from "./frozen-vm.ts";

/** What the product asks for unless it is told otherwise, and the longest that may be asked for. */
const request: SnapshotRequest = { consistency: "application", freezeBudgetMs: 10_000 };
const stepTimeoutMs = 30_000;
/** A stopped party stays so at least so long: longer than a guard waits for a silent Kluis. */
const holdMsLeast = { SIGKILL: 500, SIGSTOP: 2_500 } as const;
/** More than the bar, so that a breach is measured and not only seen. */
const goesOnTimeoutMs = 40_000;
const guardPollMs = 5;
/** So long Kluis stays in some freezes: else they last too short a time for any write to fall in. */
const instantMs = { least: 1_000, most: 1_500 } as const;

/** How a step is reached: the child waits there, and goes on for a random time before the harm. */
interface Arrival {
  readonly waitAt?: VmStep;
  /** Longest time between going on and the harm, by driver; without one the child waits during the harm. */
  readonly delayMsMost?: Readonly<Record<FrozenVm["driver"], number>>;
  /** A condition in the guest. */
  readonly condition?: string;
}

const preRan = "[ -e /run/at-pre ]";
const arrivals: Readonly<Record<FrozenStep, Arrival>> = {
  session: { delayMsMost: { qemu: 60, libvirt: 200 } },
  pre: { condition: preRan },
  armed: { waitAt: "quiesced" },
  freeze: { waitAt: "quiesced", delayMsMost: { qemu: 150, libvirt: 300 } },
  transaction: { waitAt: "frozen", delayMsMost: { qemu: 30, libvirt: 400 } },
  thaw: { waitAt: "taken", delayMsMost: { qemu: 100, libvirt: 300 } },
  post: { condition: "[ -e /run/at-post ]" },
  disarm: { waitAt: "thawed", delayMsMost: { qemu: 150, libvirt: 400 } },
};

/** What a case came to. `problems` is empty where all is as promised. */
export interface FrozenOutcome {
  readonly cell: FrozenCell;
  /** Infinity where the case could not be played to its end. */
  readonly gapSeconds: number;
  /** What the snapshot was called, or why there is none. */
  readonly outcome: string;
  readonly problems: readonly string[];
  /** How many processes got the signal. */
  readonly harmed: number;
  /**
   * Whether nothing happened: nobody was harmed, and beside that all is as promised. Such a case may be
   * played again.
   */
  readonly isVoid: boolean;
  /** How long no write may fall at the instant, where the snapshot is called better than crash-consistent. */
  readonly windowSeconds: number;
}

/** How the harm of a case comes about. */
interface Scene {
  readonly cell: FrozenCell;
  readonly vm: FrozenVm;
  readonly child: ChildRun;
  /** How long after the step the harm comes; `undefined`: there, while Kluis waits. */
  readonly delayMs: number | undefined;
  /** How long Kluis stays in the freeze after the harm came there; `undefined`: it goes on before the harm. */
  readonly heldMs: number | undefined;
}

/** How a case is played. */
export interface FrozenTry {
  readonly prng: Prng;
  /** From 1. With each, the harm comes sooner after the step. */
  readonly number: number;
  /** With this one it comes at the step, so that it cannot come too late. */
  readonly isLast: boolean;
}

/** Plays a case. Cases of one VM do not overlap; each finds what the one before left behind. */
export async function playCell(
  cell: FrozenCell,
  vm: FrozenVm,
  attempt: FrozenTry,
): Promise<FrozenOutcome> {
  const { guest } = vm;
  await guest.begin(cell.guest);
  const clock = await guest.readClock();
  const { plan, delayMs, heldMs } = planCase(cell, vm, attempt);
  await using child = ChildRun.start(plan);
  const { harmed, goesOn } = await endure({ cell, vm, child, delayMs, heldMs });
  const isReached = harmed > 0;
  const told = isReached ? await endOf(cell, child) : await child.outcome();
  await guest.goesOn(goesOnTimeoutMs);
  const observed = await guest.observe();
  const record = told?.kind === "done" ? told.snapshot?.consistency : undefined;
  const failure = told?.kind === "failed" ? `${told.code}: ${told.message}` : undefined;
  const instant = instantOf(child, clock);
  const isHeld = heldMs !== undefined;
  const others = [
    ...(goesOn ? [] : ["the application did not go on"]),
    ...judge({ cell, isReached, isHeld, observed, record, failure, instant }),
  ];
  return {
    cell,
    gapSeconds: observed.gapSeconds,
    outcome: failure ?? describeRecord(record),
    problems: [...judgeHarm(cell, harmed), ...others],
    harmed,
    isVoid: !isReached && others.length === 0,
    windowSeconds: windowSecondsOf(record, instant),
  };
}

/** Where the child waits, and when the harm comes. */
function planCase(
  cell: FrozenCell,
  { driver, options, vmId }: FrozenVm,
  { prng, number, isLast }: FrozenTry,
): { readonly plan: ChildPlan } & Pick<Scene, "delayMs" | "heldMs"> {
  const { waitAt, delayMsMost } = arrivals[cell.step];
  const isHeld = waitAt === "frozen" && prng.below(2) === 0;
  const stayMs = instantMs.least + prng.below(instantMs.most - instantMs.least);
  const delayMost = delayMsMost?.[driver];
  const plan = {
    options,
    vmId,
    operation: { kind: "snapshot", request } as const,
    ...(waitAt === undefined ? {} : { waitAt }),
    ...(waitAt !== "frozen" && prng.below(3) === 0 ? { holdMs: stayMs } : {}),
  };
  const delayMs =
    isHeld || isLast || delayMost === undefined
      ? undefined
      : prng.below(Math.ceil(delayMost / 2 ** (number - 1)));
  return { plan, delayMs, heldMs: isHeld ? stayMs : undefined };
}

function describeRecord(record: ConsistencyRecord | undefined): string {
  if (record === undefined) return "Kluis died";
  const { consistency, reason } = record;
  return reason === undefined ? consistency : `${consistency} (${reason})`;
}

function windowSecondsOf(record: ConsistencyRecord | undefined, instant: Instant): number {
  const window = windowOf(instant);
  if (window === undefined || record === undefined || record.consistency === "crash") return 0;
  return window.to - window.from;
}

/**
 * Takes a snapshot for which nothing is frozen; returns how many writes are found at its instant. None
 * would mean that a case could not find any either.
 */
export async function playControl(vm: FrozenVm, prng: Prng): Promise<number> {
  const { guest, options, vmId } = vm;
  await guest.begin("plain");
  const clock = await guest.readClock();
  const holdMs = instantMs.least + prng.below(instantMs.most - instantMs.least);
  const operation = { kind: "snapshot", request: { ...request, consistency: "crash" } } as const;
  await using child = ChildRun.start({ options, vmId, operation, holdMs });
  await child.outcome();
  return countWritesIn(await guest.observe(), instantOf(child, clock));
}

function instantOf(child: ChildRun, clock: Pick<Instant, "offset" | "error">): Instant {
  return { start: child.toldAtMs("frozen"), end: child.toldAtMs("taken"), ...clock };
}

function judgeHarm(cell: FrozenCell, harmed: number): readonly string[] {
  const least = harmedLeast(cell);
  if (harmed >= least) return [];
  return [`${String(harmed)} processes were harmed instead of ${String(least)}`];
}

/** Does the harm and ends it when the application has gone on; nothing where the step is not reached. */
async function endure(
  scene: Scene,
): Promise<{ readonly harmed: number; readonly goesOn: boolean }> {
  const { cell, vm, child, heldMs } = scene;
  const isThere = await arrive(scene);
  const harm = new Harm(cell, vm, child);
  const harmed = isThere ? await harm.apply() : 0;
  if (harmed > 0 && heldMs !== undefined) await systemClock.sleep(heldMs);
  child.goOn();
  if (harmed === 0) return { harmed, goesOn: true };
  await systemClock.sleep(holdMsLeast[cell.signal]);
  const goesOn = await vm.guest.goesOn(goesOnTimeoutMs);
  await harm.undo();
  return { harmed, goesOn };
}

/** What Kluis tells in the end; `undefined` where it was killed. */
async function endOf(
  { party, signal }: FrozenCell,
  child: ChildRun,
): Promise<Exclude<ChildMessage, { kind: "step" }> | undefined> {
  if (signal === "SIGSTOP" || (party !== "kluis" && party !== "host")) return child.outcome();
  await child.kill();
  return undefined;
}

/** Forgets snapshots that earlier cases left, so that the layers do not grow for ever. */
export async function tidyUp({ hypervisor, vmId }: FrozenVm): Promise<void> {
  const ids = (await hypervisor.listSnapshots(vmId)).map(({ id }) => id);
  await hypervisor.releaseSnapshots(vmId, new Set(ids.slice(0, -1)));
}

/** What is left of all cases: nothing, and a snapshot is application-consistent. */
export async function findLeftovers({
  hypervisor,
  vmId,
  guest,
}: FrozenVm): Promise<readonly string[]> {
  await guest.begin("scripted");
  const { consistency } = await hypervisor.takeSnapshot(vmId, request);
  const living = await guest.console.run("grep -slE '^k[st]-' /proc/[0-9]*/comm; true");
  return [
    ...(consistency.consistency === "application" ? [] : [consistency.reason ?? "no reason"]),
    ...(living === "" ? [] : [`${living} lives on`]),
  ];
}

/** False where the step does not come, or where the guest's scripts were not run before it. */
async function arrive({ cell, vm, child, delayMs }: Scene): Promise<boolean> {
  const { waitAt, condition } = arrivals[cell.step];
  if (condition !== undefined) return vm.guest.reaches(condition, stepTimeoutMs);
  if (waitAt === undefined) await waitForGuard(vm);
  else {
    await child.waitForStep(waitAt);
    const isQuiet = cell.guest === "plain" || (await vm.guest.reaches(preRan, 0));
    if (!isQuiet) return false;
    if (delayMs !== undefined) child.goOn();
  }
  if (delayMs !== undefined) await systemClock.sleep(delayMs);
  return true;
}

async function waitForGuard(vm: FrozenVm): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + stepTimeoutMs;
  while ((await readGuard(vm)) === undefined) {
    if (systemClock.monotonicMs() > deadlineMs) throw new Error("no guard was started");
    await systemClock.sleep(guardPollMs);
  }
}

/** One line for people. */
export function describe({ cell, gapSeconds, outcome, problems, harmed }: FrozenOutcome): string {
  const wrong = problems.length === 0 ? "" : ` PROBLEM: ${problems.join("; ")}`;
  const wait = Number.isFinite(gapSeconds)
    ? `waited ${gapSeconds.toFixed(2)} s`
    : "how long it waited is not known";
  return `${nameOf(cell)}: ${harmed} harmed, ${wait}; ${outcome}${wrong}`;
}
