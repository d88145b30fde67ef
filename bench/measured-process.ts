/** Runs a program as users do, and tells what it took. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";

/** What a program took. */
export interface Cost {
  /** From its start until everything it wrote is durable. */
  readonly wallMs: number;
  /** User and system time of it and of all its children. */
  readonly cpuMs: number;
  /** Peak resident memory of the largest of its processes, by the kernel's count. */
  readonly peakBytes: number;
}

/** How a program is measured. */
export interface MeasureOptions {
  /** An existing folder for files of the measurement; not on the clock. */
  readonly scratch: string;
  /** The file system of this folder is synced as a part of the measured time. */
  readonly syncFolder: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly signal: AbortSignal;
}

const processTimeoutMs = 60 * 60_000;
/** Seconds of user and system time, and KiB, as the kernel tells them to wait4(2). */
const timeFormat = "%U %S %M";

/** Runs `command` to its end; throws ToolFailed where it fails. Also returns what it printed. */
export async function measureProcess(
  command: string,
  args: readonly string[],
  options: MeasureOptions,
): Promise<{ readonly cost: Cost; readonly stdout: string }> {
  const { scratch, syncFolder, env, cwd, signal } = options;
  const timesFile = join(scratch, "times.txt");
  const startMs = performance.now();
  const result = await runTool("time", ["-o", timesFile, "-f", timeFormat, command, ...args], {
    timeoutMs: processTimeoutMs,
    signal,
    ...(env === undefined ? {} : { env }),
    ...(cwd === undefined ? {} : { cwd }),
  });
  assertToolSucceeded(command, result);
  await syncFileSystem(syncFolder, signal);
  const wallMs = performance.now() - startMs;
  const times = (await readFile(timesFile, "utf8")).trim().split("\n").at(-1) ?? "";
  const [user, system, peakKib] = times.split(" ").map(Number);
  if (user === undefined || system === undefined || peakKib === undefined) {
    throw new Error(`Cannot measure "${command}": "${times}" is not what time prints`);
  }
  const cost = { wallMs, cpuMs: (user + system) * 1000, peakBytes: peakKib * 1024 };
  return { cost, stdout: result.stdout };
}

/** Writes back all that the file system of a folder has in memory. */
export async function syncFileSystem(folder: string, signal: AbortSignal): Promise<void> {
  const result = await runTool("sync", ["-f", folder], { timeoutMs: processTimeoutMs, signal });
  assertToolSucceeded("sync", result);
}
