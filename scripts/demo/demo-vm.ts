/** The VM of the demo, and the hands in its guest. */
import { join } from "node:path";

import { readProcessIdentity, stopProcess } from "#drivers/process/process-identity.ts";
import { planRuntimePaths } from "#drivers/qemu/arguments.ts";
import { readFile } from "node:fs/promises";
import { createGuestExec, type GuestExec } from "../../lab/guest-exec.ts";
import { JsonChannel } from "../../lab/json-channel.ts";

/** A cold boot under emulation on a busy machine. */
const bootTimeoutMs = 180_000;

/** Sockets and pid file of a VM that the product runs with its state in `stateFolder`. */
export function pathsOf(stateFolder: string, vmId: string) {
  return planRuntimePaths(join(stateFolder, "vms", vmId, "run"));
}

/**
 * Runs `work` with the guest's agent, once it answers, and hangs up: the agent has one client at a
 * time, and the product must find it free.
 */
export async function inGuest<T>(
  agentSocket: string,
  signal: AbortSignal,
  work: (exec: GuestExec) => Promise<T>,
): Promise<T> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(bootTimeoutMs)]);
  using agent = await JsonChannel.openAgent(agentSocket, limit);
  return await work(createGuestExec(agent));
}

/** Ends a VM at once, as by a power cut. */
export async function cutPower(pidFile: string): Promise<void> {
  const identity = await readProcessIdentity(Number(await readFile(pidFile, "utf8")));
  if (identity !== undefined) await stopProcess(identity, { graceMs: 0 });
}
