/**
 * Which process a pid means. Pids are used again, so a pid that is kept (in a file, over an
 * await) is only ever acted on together with the start time of its process and the boot.
 */
import { readFile } from "node:fs/promises";

import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";

/** Names one process of one boot for ever; plain JSON. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks from boot to start. */
  readonly startTicks: number;
  /** /proc/sys/kernel/random/boot_id. */
  readonly bootId: string;
}

/** How often the end of a process that is not our child is looked for. */
const END_POLL_MS = 20;

/** The identity of the process that has `pid` now; `undefined` where none runs (a zombie does not, once its last thread has ended). */
export async function readProcessIdentity(pid: number): Promise<ProcessIdentity | undefined> {
  const stat = await readOrAbsent(`/proc/${String(pid)}/stat`);
  const fields = stat === undefined ? undefined : parseProcessStat(stat);
  if (fields === undefined) return undefined;
  const bootId = await readFile("/proc/sys/kernel/random/boot_id", "utf8");
  return { pid, startTicks: fields.startTicks, bootId: bootId.trim() };
}

/** Whether that very process still runs. */
export async function isProcessAlive(identity: ProcessIdentity): Promise<boolean> {
  const now = await readProcessIdentity(identity.pid);
  return now?.startTicks === identity.startTicks && now.bootId === identity.bootId;
}

/**
 * Sends `signal` to that very process; false where it has ended. (Between the check and the kill
 * the kernel would have to use the pid again, which takes a whole turn of the pid space.)
 */
export async function signalProcess(
  identity: ProcessIdentity,
  signal: NodeJS.Signals,
): Promise<boolean> {
  if (!(await isProcessAlive(identity))) return false;
  try {
    process.kill(identity.pid, signal);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}

/** Tells that very process to go on where a signal stopped it; what a debugger holds stays as it is. */
export async function continueIfStopped(identity: ProcessIdentity): Promise<void> {
  const stat = await readOrAbsent(`/proc/${String(identity.pid)}/stat`);
  if (stat !== undefined && parseProcessStat(stat)?.state === "T") {
    await signalProcess(identity, "SIGCONT");
  }
}

/** How long {@link stopProcess} waits; `graceMs` lies between SIGTERM and SIGKILL. */
export interface StopOptions {
  readonly graceMs: number;
  readonly clock?: Clock;
}

/** How long a process may live after SIGKILL (it can hang in the kernel on a dead disk). */
export const KILL_WAIT_MS = 10_000;

/**
 * Ends a process that may not be our child: SIGTERM, after `graceMs` SIGKILL. Resolves when it has
 * ended, also if it had before.
 *
 * Errors: ToolFailed (backoff) where it lives {@link KILL_WAIT_MS} after SIGKILL.
 */
export async function stopProcess(identity: ProcessIdentity, options: StopOptions): Promise<void> {
  const clock = options.clock ?? systemClock;
  await signalProcess(identity, "SIGTERM");
  if (await waitForProcessEnd(identity, { timeoutMs: options.graceMs, clock })) return;
  await signalProcess(identity, "SIGKILL");
  if (await waitForProcessEnd(identity, { timeoutMs: KILL_WAIT_MS, clock })) return;
  throw new KluisError(
    "ToolFailed",
    `Cannot end process ${String(identity.pid)}: it still runs after SIGKILL`,
  );
}

/** Waits until that very process has ended; false after `timeoutMs`. */
export async function waitForProcessEnd(
  identity: ProcessIdentity,
  options: { readonly timeoutMs: number; readonly clock?: Clock; readonly signal?: AbortSignal },
): Promise<boolean> {
  const clock = options.clock ?? systemClock;
  const deadlineMs = clock.monotonicMs() + options.timeoutMs;
  while (await isProcessAlive(identity)) {
    const leftMs = deadlineMs - clock.monotonicMs();
    if (leftMs <= 0) return false;
    await clock.sleep(Math.min(END_POLL_MS, leftMs), options.signal);
  }
  return true;
}

/**
 * State and start time out of /proc/PID/stat; `undefined` for a process that has ended (zombie or dead).
 * One that is killed is often a zombie while other threads of it live for some ms, with its files and
 * their locks: it has not ended.
 */
export function parseProcessStat(
  stat: string,
): { readonly state: string; readonly startTicks: number } | undefined {
  // The command name, in brackets, may itself hold blanks and brackets: count from the last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state = "X"] = fields;
  const threads = Number(fields[17]);
  const startTicks = Number(fields[19]);
  const hasEnded = (state === "Z" && threads <= 1) || state === "X";
  if (hasEnded || !Number.isSafeInteger(startTicks)) return undefined;
  return { state, startTicks };
}

async function readOrAbsent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}
