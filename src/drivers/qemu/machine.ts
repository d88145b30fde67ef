/** The QEMU process of a VM: found, started, stopped. It belongs to nobody and outlives Kluis. */
import { readFile, rm } from "node:fs/promises";

import { isKluisError, KluisError } from "#base/kluis-error.ts";
import {
  readProcessIdentity,
  stopProcess,
  waitForProcessEnd,
  type ProcessIdentity,
} from "#drivers/process/process-identity.ts";
import { lastLine, runTool } from "#drivers/process/run-tool.ts";
import { isObject } from "#formats/qmp-wire.ts";
import { detectAccelerator } from "./accelerator.ts";
import { planQemuArguments } from "./arguments.ts";
import { waitUntil } from "#drivers/guest/deadline.ts";
import { GuestAgent } from "#drivers/guest/guest-agent.ts";
import { requestGuestShutdown } from "#drivers/guest/guest-commands.ts";
import { QmpClient } from "#drivers/qmp/qmp-client.ts";
import type { VmContext } from "./vm-context.ts";
import type { VmRecord } from "#drivers/layers/vm-record.ts";
import type { DiskLayer } from "#drivers/layers/disk-layer.ts";

const program = "qemu-system-x86_64";

/** QEMU opens its images and goes into the background; a loaded machine takes seconds. */
const LAUNCH_TIMEOUT_MS = 60_000;
/** Loading a saved machine state reads the guest's memory from disk. */
const RUNNING_TIMEOUT_MS = 120_000;
const RUNNING_POLL_MS = 20;
/** How long locks of a QEMU that was killed may last. */
const LOCKS_TIMEOUT_MS = 5_000;
const LOCKS_POLL_MS = 100;
/** Between SIGTERM, which lets QEMU flush its images, and SIGKILL. */
const TERMINATE_GRACE_MS = 10_000;
/** How long QEMU may take to end after `quit`. */
const QUIT_TIMEOUT_MS = 10_000;

/** The running QEMU of a VM; `undefined` where none runs. */
export async function findMachine(context: VmContext): Promise<ProcessIdentity | undefined> {
  const { pidFile } = context.paths;
  const pid = Number(await readText(pidFile));
  if (!Number.isSafeInteger(pid) || pid <= 0) return undefined;
  const identity = await readProcessIdentity(pid);
  if (identity === undefined) return undefined;
  // A pid may be used again; our QEMU names our pid file.
  const args = ((await readText(`/proc/${String(pid)}/cmdline`)) ?? "").split("\0");
  return args.includes(pidFile) ? identity : undefined;
}

/**
 * Starts the VM on the layers of the record and resolves once it runs. Errors: VmStartFailed
 * (after-change) with QEMU's words, ImageInUse, ToolMissing.
 */
export async function launchMachine(
  context: VmContext,
  record: VmRecord,
  options: { readonly incoming?: string; readonly signal?: AbortSignal | undefined },
): Promise<void> {
  const { paths, description } = context;
  const layers = new Map<string, readonly DiskLayer[]>(
    record.disks.map((disk) => [disk.name, disk.layers]),
  );
  const accelerator =
    context.accelerator === "detect" ? await detectAccelerator() : context.accelerator;
  const args = planQemuArguments(description, {
    paths,
    layers,
    accelerator,
    daemonize: true,
    ...(options.incoming === undefined ? {} : { incoming: options.incoming }),
  });
  for (const path of Object.values<string | undefined>({ ...paths })) {
    if (path !== undefined) await rm(path, { force: true });
  }
  await runLauncher(context, args, options.signal);
  await waitUntilRunning(context, options.signal);
}

/**
 * Runs QEMU until it is in the background. A QEMU that was killed a moment ago may still hold its
 * locks (its threads end one by one), so that refusal is believed only when it lasts.
 */
async function runLauncher(
  context: VmContext,
  args: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const { clock } = context;
  const deadlineMs = clock.monotonicMs() + LOCKS_TIMEOUT_MS;
  for (;;) {
    const result = await runTool(program, args, {
      timeoutMs: LAUNCH_TIMEOUT_MS,
      ...(signal === undefined ? {} : { signal }),
    });
    if (result.exitCode === 0) return;
    if (!isLockRefusal(result.stderr))
      throw startFailed(context, lastLine(result.stderr) ?? "no reason");
    if (clock.monotonicMs() >= deadlineMs) throw imageInUse(context, result.stderr);
    await clock.sleep(LOCKS_POLL_MS, signal);
  }
}

async function waitUntilRunning(
  context: VmContext,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { clock, paths } = context;
  try {
    await using qmp = await QmpClient.open(paths.qmpSocket, { clock, signal });
    const isRunning = await waitUntil(
      async () => {
        const answer = await qmp.execute("query-status");
        const status = isObject(answer) ? answer["status"] : undefined;
        // After a saved state was loaded, QEMU takes its images' locks; `cont` says why it could not.
        if (status === "paused") await qmp.execute("cont");
        return status === "running";
      },
      { timeoutMs: RUNNING_TIMEOUT_MS, pollMs: RUNNING_POLL_MS, clock, signal },
    );
    if (!isRunning) throw startFailed(context, "it does not begin to run");
  } catch (error) {
    await endMachine(context);
    if (!isKluisError(error, "QmpFailed")) throw error;
    if (isLockRefusal(error.message)) throw imageInUse(context, error.message);
    throw startFailed(context, error.message);
  }
}

/**
 * Lets a machine go on that stands still: QEMU stops a guest whose write found no room on the host.
 * False where it runs. Errors: QmpFailed.
 */
export async function resumeMachine(
  context: VmContext,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const { clock, paths } = context;
  await using qmp = await QmpClient.open(paths.qmpSocket, { clock, signal });
  const status = await qmp.execute("query-status");
  if (isObject(status) && status["running"] === true) return false;
  await qmp.execute("cont");
  return true;
}

/** How a VM is stopped. */
export interface StopOptions {
  /** How long the guest may take to shut down; 0: it is not asked, as by a power cut. */
  readonly shutdownTimeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Asks the guest to shut down, and where it does not, ends the machine. Resolves when it has ended. */
export async function stopMachine(
  context: VmContext,
  machine: ProcessIdentity,
  options: StopOptions,
): Promise<void> {
  const { clock } = context;
  const timeoutMs = options.shutdownTimeoutMs;
  if (timeoutMs > 0) {
    await askToShutDown(context);
    const { signal } = options;
    const wait = { timeoutMs, clock, ...(signal === undefined ? {} : { signal }) };
    if (await waitForProcessEnd(machine, wait)) return;
  }
  await endMachine(context);
}

async function askToShutDown(context: VmContext): Promise<void> {
  const { clock, paths } = context;
  try {
    await using agent = await GuestAgent.open(paths.agentSocket, { clock });
    requestGuestShutdown(agent);
    // The agent does not answer; a sync after it says that it has read the request.
    await agent.execute("guest-ping");
  } catch (error) {
    if (!isKluisError(error)) throw error;
    // Without an agent the power button is what is left; guests with ACPI take it.
    await pressPowerButton(context);
  }
}

async function pressPowerButton(context: VmContext): Promise<void> {
  try {
    await using qmp = await QmpClient.open(context.paths.qmpSocket, { clock: context.clock });
    await qmp.execute("system_powerdown");
  } catch (error) {
    // A machine that does not listen is ended by its process.
    if (!isKluisError(error)) throw error;
  }
}

async function endMachine(context: VmContext): Promise<void> {
  const { clock } = context;
  const machine = await findMachine(context);
  if (machine === undefined) return;
  try {
    await using qmp = await QmpClient.open(context.paths.qmpSocket, { clock });
    await qmp.execute("quit");
    if (await waitForProcessEnd(machine, { timeoutMs: QUIT_TIMEOUT_MS, clock })) return;
  } catch (error) {
    // `quit` may end the session before its answer; the process tells what happened.
    if (!isKluisError(error)) throw error;
  }
  await stopProcess(machine, { graceMs: TERMINATE_GRACE_MS, clock });
}

function isLockRefusal(text: string): boolean {
  return /Failed to get .* lock|another process using the image/.test(text);
}

function startFailed(context: VmContext, reason: string): KluisError {
  const { name } = context.description;
  return new KluisError("VmStartFailed", `Cannot start VM "${name}": QEMU failed: ${reason}`, {
    details: { vm: name },
  });
}

function imageInUse(context: VmContext, stderr: string): KluisError {
  const { name } = context.description;
  const image = /image \[(.*)\]/.exec(stderr)?.[1];
  const what = image === undefined ? "one of its images" : `"${image}"`;
  return new KluisError("ImageInUse", `Cannot start VM "${name}": another program uses ${what}`, {
    details: { vm: name },
  });
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}
