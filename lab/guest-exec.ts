/** Runs programs in a guest through its agent. */
import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { JsonChannel } from "./json-channel.ts";

/** A program to run in the guest. */
export interface GuestCommand {
  /** Absolute path or a name in the guest's PATH. */
  readonly path: string;
  readonly args: readonly string[];
  /** Goes to the program's standard input. */
  readonly stdin?: Uint8Array;
  /** Longest run; default 60 s. */
  readonly timeoutMs?: number;
}

/** How the program ended and what it printed. */
export interface GuestResult {
  /** 128 + signal where a signal ended it. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * What the guest toolkit needs of an agent: run a program to its end and return its output. Errors:
 * those of the client behind it; an exit code other than 0 is a result.
 */
export type GuestExec = (command: GuestCommand, signal?: AbortSignal) => Promise<GuestResult>;

const defaultTimeoutMs = 60_000;
/** First wait between two looks at a running program; doubled each time up to the longest. */
const pollMsMin = 5;
const pollMsMax = 100;

interface ExecStatus {
  readonly exited: boolean;
  readonly exitcode?: number;
  readonly signal?: number;
  readonly "out-data"?: string;
  readonly "err-data"?: string;
}

/** A {@link GuestExec} over the lab's own channel. */
export function createGuestExec(agent: JsonChannel): GuestExec {
  return async (command, signal) => {
    const started = (await agent.request("guest-exec", {
      path: command.path,
      arg: command.args,
      "capture-output": true,
      ...(command.stdin === undefined
        ? {}
        : { "input-data": Buffer.from(command.stdin).toString("base64") }),
    })) as { readonly pid: number };
    const deadlineMs = systemClock.monotonicMs() + (command.timeoutMs ?? defaultTimeoutMs);
    for (let waitMs = pollMsMin; ; waitMs = Math.min(waitMs * 2, pollMsMax)) {
      const status = (await agent.request("guest-exec-status", started)) as ExecStatus;
      if (status.exited) return toResult(status);
      if (systemClock.monotonicMs() > deadlineMs) {
        throw new KluisError("AgentFailed", `Cannot run "${command.path}": it does not end`);
      }
      await systemClock.sleep(waitMs, signal);
    }
  };
}

function toResult(status: ExecStatus): GuestResult {
  const decode = (text: string | undefined): string =>
    Buffer.from(text ?? "", "base64").toString("utf8");
  return {
    exitCode: status.exitcode ?? 128 + (status.signal ?? 0),
    stdout: decode(status["out-data"]),
    stderr: decode(status["err-data"]),
  };
}
