/** Runs programs in a guest through the product's own client of the agent. */
import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { GuestAgent } from "#drivers/guest/guest-agent.ts";
import {
  runGuestProgram,
  writeGuestFile,
  type GuestProgram,
} from "#drivers/guest/guest-commands.ts";
import type { GuestExec } from "./guest-exec.ts";

/** A systemd guest under emulation on a loaded machine takes a minute to boot. */
const agentTimeoutMs = 120_000;
const agentTryMs = 2_000;
const programTimeoutMs = 120_000;
/** More goes through a file: a command of an agent behind libvirt is at most 128 KiB. */
const inputBytesMax = 48 * 1024;
const inputPath = "/run/lab-input";

/** Opens the agent at that address for each call, and waits until it answers. */
export function createAgentExec(agentSocket: string): GuestExec {
  return async (command, signal) => {
    const deadlineMs = systemClock.monotonicMs() + agentTimeoutMs;
    for (;;) {
      try {
        await using agent = await GuestAgent.open(agentSocket, { timeoutMs: agentTryMs, signal });
        const timeoutMs = command.timeoutMs ?? programTimeoutMs;
        const program = await passInput(agent, command);
        return await runGuestProgram(agent, program, { timeoutMs, signal });
      } catch (error) {
        const isAbsent = isKluisError(error, "AgentUnavailable");
        if (!isAbsent || systemClock.monotonicMs() > deadlineMs) throw error;
      }
    }
  };
}

/** A program that reads the same standard input, with a small command. */
async function passInput(agent: GuestAgent, program: GuestProgram): Promise<GuestProgram> {
  const { stdin, path, args } = program;
  if (stdin === undefined || stdin.byteLength <= inputBytesMax) return program;
  await writeGuestFile(agent, inputPath, { bytes: stdin });
  return { path: "/bin/sh", args: ["-c", `exec "$@" <${inputPath}`, "lab", path, ...args] };
}
