/** Starts a program that stays, waits until it is ready, and ends it. */
import { open, type FileHandle } from "node:fs/promises";
import { Socket } from "node:net";

import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { endChild, startChild, type Child, type ExitStatus } from "./child.ts";
import { readProcessIdentity, type ProcessIdentity } from "./process-identity.ts";
import { lastLine, TOOL_STDERR_BYTES_MAX } from "./run-tool.ts";

/** How often the ready condition is asked. */
const READY_POLL_MS = 10;
/** How long a daemon has between SIGTERM and SIGKILL unless the caller says otherwise. */
export const DAEMON_STOP_GRACE_MS = 5_000;

/** How a daemon is started and ended. */
export interface DaemonOptions {
  /** Asked again and again until it answers true: a socket exists, a port answers. */
  readonly isReady: () => Promise<boolean>;
  /** ToolFailed, and the daemon has ended, where it is not ready after this long. */
  readonly readyTimeoutMs: number;
  /** Ends the wait for readiness and the daemon; not looked at once it is ready. */
  readonly signal?: AbortSignal;
  readonly stopGraceMs?: number;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /**
   * `dies-with-us` (default): the kernel kills it with SIGKILL when we die. `stays`: it outlives us,
   * does not keep our event loop alive, and is ended only by `stop`.
   */
  readonly lifetime?: "dies-with-us" | "stays";
  /**
   * Standard output and error are appended to this file; without it the end of standard error is
   * kept for messages. Required for `stays`, which must not write to a pipe that nobody reads.
   */
  readonly logPath?: string;
  /** Its standard input is a pipe that we hold open: it reads the end of file when we die. */
  readonly lifeline?: boolean;
  /** Is its standard input, in place of a `lifeline`; stays open here. */
  readonly stdinFile?: FileHandle;
  readonly clock?: Clock;
}

/** A running daemon. Disposing stops it, unless its lifetime is `stays`. */
export interface Daemon extends AsyncDisposable {
  readonly identity: ProcessIdentity;
  /** Resolves when it has ended, for whatever reason. */
  readonly exited: Promise<ExitStatus>;
  /** How it ended; `undefined` while it runs. */
  readonly exitStatus: ExitStatus | undefined;
  /** The end of what it printed to standard error; empty with a `logPath`. */
  stderrTail(): string;
  /** SIGTERM, then SIGKILL after the grace; resolves when it has ended. Safe to call again. */
  stop(): Promise<ExitStatus>;
}

/**
 * Starts `command` with `args`, never through a shell, and resolves when `isReady` says so.
 *
 * Errors: ToolMissing (after-change); ToolFailed (backoff) where it ends or hangs before it is
 * ready, with the last line of standard error in the message and as detail `said`. On every error
 * it has ended.
 */
export async function spawnDaemon(
  command: string,
  args: readonly string[],
  options: DaemonOptions,
): Promise<Daemon> {
  options.signal?.throwIfAborted();
  const child = await launch(command, args, options);
  const daemon = new RunningDaemon(child, options);
  try {
    await daemon.waitUntilReady(command);
  } catch (error) {
    await daemon.stop();
    throw error;
  }
  if (options.lifetime === "stays") {
    child.process.unref();
    if (child.process.stdin instanceof Socket) child.process.stdin.unref();
  }
  return daemon;
}

async function launch(
  command: string,
  args: readonly string[],
  options: DaemonOptions,
): Promise<Child> {
  const stays = options.lifetime === "stays";
  const log = options.logPath === undefined ? undefined : await open(options.logPath, "a", 0o600);
  const errors = log?.fd ?? (stays ? "ignore" : "pipe");
  const input = options.stdinFile?.fd ?? (options.lifeline === true ? "pipe" : "ignore");
  try {
    return await startChild(command, args, {
      stdio: [input, log?.fd ?? "ignore", errors],
      dieWithParent: !stays,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: options.env }),
    });
  } finally {
    await log?.close();
  }
}

class RunningDaemon implements Daemon {
  readonly #child: Child;
  readonly #options: DaemonOptions;
  readonly #clock: Clock;
  #identity: ProcessIdentity | undefined;
  #exitStatus: ExitStatus | undefined;
  #stderr = "";
  readonly exited: Promise<ExitStatus>;

  constructor(child: Child, options: DaemonOptions) {
    this.#child = child;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.exited = child.exited.then((status) => (this.#exitStatus = status));
    child.process.stdin?.on("error", () => undefined);
    child.process.stderr?.on("data", (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString("utf8")).slice(-TOOL_STDERR_BYTES_MAX);
    });
  }

  get identity(): ProcessIdentity {
    return this.#identity as ProcessIdentity;
  }

  get exitStatus(): ExitStatus | undefined {
    return this.#exitStatus;
  }

  stderrTail(): string {
    return this.#stderr;
  }

  async waitUntilReady(command: string): Promise<void> {
    const { isReady, readyTimeoutMs, signal } = this.#options;
    this.#identity = await readProcessIdentity(this.#child.pid);
    const deadlineMs = this.#clock.monotonicMs() + readyTimeoutMs;
    while (this.#exitStatus === undefined) {
      if (this.#identity !== undefined && (await isReady())) return;
      signal?.throwIfAborted();
      if (this.#clock.monotonicMs() >= deadlineMs) {
        throw this.#failed(command, `it was not ready within ${String(readyTimeoutMs)} ms`);
      }
      await this.#clock.sleep(READY_POLL_MS, signal);
    }
    const { code, signal: killer } = this.#exitStatus;
    throw this.#failed(command, `it ended with ${String(code ?? killer)}`);
  }

  async stop(): Promise<ExitStatus> {
    if (this.#exitStatus !== undefined) return this.#exitStatus;
    return endChild(this.#child, this.#options.stopGraceMs ?? DAEMON_STOP_GRACE_MS, this.#clock);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#options.lifetime !== "stays") await this.stop();
  }

  #failed(command: string, reason: string): KluisError {
    const said = lastLine(this.#stderr);
    const detail = said === undefined ? reason : `${reason}: ${said}`;
    return new KluisError("ToolFailed", `Cannot start "${command}": ${detail}`, {
      details: { tool: command, ...(said === undefined ? {} : { said }) },
    });
  }
}
