/** The power cut of a lab VM. */
import { KluisError } from "#base/kluis-error.ts";
import {
  signalProcess,
  waitForProcessEnd,
  type ProcessIdentity,
} from "#drivers/process/process-identity.ts";

/** A QEMU under emulation on a busy machine takes a second for its end. */
const endTimeoutMs = 30_000;

/** Kills a QEMU; its images are free when this resolves. Errors: ToolFailed where it lives on. */
export async function cutPowerOf(machine: ProcessIdentity): Promise<void> {
  await signalProcess(machine, "SIGKILL");
  if (await waitForProcessEnd(machine, { timeoutMs: endTimeoutMs })) return;
  throw new KluisError("ToolFailed", `QEMU ${String(machine.pid)} still runs after SIGKILL`);
}
