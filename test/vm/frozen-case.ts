/**
 * Plays one case of never-frozen: a child process takes an application-consistent snapshot; at a step
 * a party is killed, or stopped until the application has gone on; the guest says how long it waited.
 */
import { readFile } from "node:fs/promises";

import { systemClock } from "#base/clock.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import {
  isProcessAlive,
  signalProcess,
  type ProcessIdentity,
} from "#drivers/process/process-identity.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import type { Prng } from "#testing/seed.ts";
import { ChildRun, type ChildMessage } from "./child-run.ts";
import { judge } from "./frozen-judge.ts";
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

/** How a step is reached: the child waits there, and goes on for a random time before the harm. */
interface Arrival {
  readonly waitAt?: VmStep;
  /** Longest time between going on and the harm, by driver; 0: the child waits during the harm. */
  readonly delayMsMost?: Readonly<Record<FrozenVm["driver"], number>>;
  /** A condition in the guest. */
  readonly condition?: string;
}

const arrivals: Readonly<Record<FrozenStep, Arrival>> = {
  session: { delayMsMost: { qemu: 60, libvirt: 200 } },
  pre: { condition: "[ -e /run/at-pre ]" },
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
  /** Whether anything was done: a snapshot without scripts, for want of time, has no such step. */
  readonly isReached: boolean;
}

/** Plays a case. Cases of one VM do not overlap; each finds what the one before left behind. */
export async function playCell(cell: FrozenCell, vm: FrozenVm, prng: Prng): Promise<FrozenOutcome> {
  const { guest, options, vmId } = vm;
  await guest.begin();
  const clock = await guest.readClock();
  const arrival = arrivals[cell.step];
  const { waitAt } = arrival;
  const operation = { kind: "snapshot", request } as const;
  const plan = { options, vmId, operation, ...(waitAt === undefined ? {} : { waitAt }) };
  await using child = ChildRun.start(plan);
  const isReached = await arrive({ cell, vm, child, prng });
  const goesOn = isReached ? await endure(cell, vm, child) : true;
  const told = isReached ? await endOf(cell, child) : await child.outcome();
  await guest.goesOn(goesOnTimeoutMs);
  const observed = await guest.observe();
  const record = told?.kind === "done" ? told.snapshot?.consistency : undefined;
  const failure = told?.kind === "failed" ? `${told.code}: ${told.message}` : undefined;
  const instant = { start: child.toldAtMs("frozen"), end: child.toldAtMs("taken"), ...clock };
  const problems = [
    ...(isReached ? [] : ["the step was not reached"]),
    ...(goesOn ? [] : ["the application did not go on"]),
    ...judge({ cell, observed, record, failure, instant }),
  ];
  const worth =
    record === undefined ? "Kluis died" : `${record.consistency} ${record.reason ?? ""}`;
  const { gapSeconds } = observed;
  return { cell, gapSeconds, outcome: failure ?? worth, problems, isReached };
}

/** Does the harm and ends it when the application has gone on; false where it has not. */
async function endure(cell: FrozenCell, vm: FrozenVm, child: ChildRun): Promise<boolean> {
  const harm = new Harm(cell, vm, child);
  await harm.apply();
  if (arrivals[cell.step].waitAt !== undefined) child.goOn();
  await systemClock.sleep(holdMsLeast[cell.signal]);
  const goesOn = await vm.guest.goesOn(goesOnTimeoutMs);
  await harm.undo();
  return goesOn;
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
  const { consistency } = await hypervisor.takeSnapshot(vmId, request);
  const living = await guest.console.run("grep -slE '^k[st]-' /proc/[0-9]*/comm; true");
  return [
    ...(consistency.consistency === "application" ? [] : [consistency.reason ?? "no reason"]),
    ...(living === "" ? [] : [`${living} lives on`]),
  ];
}

interface Scene {
  readonly cell: FrozenCell;
  readonly vm: FrozenVm;
  readonly child: ChildRun;
  readonly prng: Prng;
}

async function arrive({ cell, vm, child, prng }: Scene): Promise<boolean> {
  const { waitAt, condition, delayMsMost } = arrivals[cell.step];
  if (condition !== undefined) return vm.guest.reaches(condition, stepTimeoutMs);
  if (waitAt !== undefined) await child.waitForStep(waitAt);
  else await waitForGuard(vm);
  if (delayMsMost === undefined) return true;
  if (waitAt !== undefined) child.goOn();
  await systemClock.sleep(prng.below(delayMsMost[vm.driver]));
  return true;
}

async function waitForGuard(vm: FrozenVm): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + stepTimeoutMs;
  while ((await readGuard(vm)) === undefined) {
    if (systemClock.monotonicMs() > deadlineMs) throw new Error("no guard was started");
    await systemClock.sleep(guardPollMs);
  }
}

/** `undefined` where none lives. */
async function readGuard(vm: FrozenVm): Promise<ProcessIdentity | undefined> {
  try {
    const identity = JSON.parse(await readFile(vm.guardPath, "utf8")) as ProcessIdentity;
    return (await isProcessAlive(identity)) ? identity : undefined;
  } catch (error) {
    const isAbsent = (error as NodeJS.ErrnoException).code === "ENOENT";
    if (isAbsent) return undefined;
    throw error;
  }
}

const inGuest = {
  agent: "kill -SIGNAL $(grep -slx qemu-ga /proc/[0-9]*/comm | tr -dc '0-9\\n')",
  watch: "kill -SIGNAL $(grep -slE '^k[st]-' /proc/[0-9]*/comm | tr -dc '0-9\\n')",
  script: "kill -SIGNAL -$(cat /run/script-pid)",
} as const;

/** The harm of a case, and its end where a stop can end. */
class Harm {
  readonly #cell: FrozenCell;
  readonly #vm: FrozenVm;
  readonly #child: ChildRun;
  #guard: ProcessIdentity | undefined;

  constructor(cell: FrozenCell, vm: FrozenVm, child: ChildRun) {
    this.#cell = cell;
    this.#vm = vm;
    this.#child = child;
  }

  async apply(): Promise<void> {
    this.#guard = await readGuard(this.#vm);
    await this.#send(this.#cell.signal);
  }

  async undo(): Promise<void> {
    const { party, signal } = this.#cell;
    const { host } = this.#vm;
    if (signal === "SIGSTOP") await this.#send("SIGCONT");
    else if (host !== undefined && (party === "libvirtd" || party === "host")) {
      await host.kill();
      await host.restart();
    }
  }

  async #send(signal: NodeJS.Signals): Promise<void> {
    const { party } = this.#cell;
    const isAll = party === "host";
    if (party === "kluis" || isAll) this.#signalChild(signal);
    if ((party === "guard" || isAll) && this.#guard !== undefined) {
      await signalProcess(this.#guard, signal);
    }
    const daemon = this.#vm.host?.daemon;
    if (daemon !== undefined && (party === "libvirtd" || isAll)) {
      await signalProcess(daemon.identity, signal);
    }
    if (party === "agent" || party === "watch" || party === "script") {
      const name = signal.slice("SIG".length);
      await this.#vm.guest.console.run(inGuest[party].replace("SIGNAL", name));
    }
  }

  /** It may have ended by itself. */
  #signalChild(signal: NodeJS.Signals): void {
    try {
      this.#child.signalGroup(signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
}

/** One line for people. */
export function describe({ cell, gapSeconds, outcome, problems }: FrozenOutcome): string {
  const wrong = problems.length === 0 ? "" : ` PROBLEM: ${problems.join("; ")}`;
  const wait = Number.isFinite(gapSeconds)
    ? `waited ${gapSeconds.toFixed(2)} s`
    : "how long it waited is not known";
  return `${nameOf(cell)}: ${wait}; ${outcome}${wrong}`;
}
