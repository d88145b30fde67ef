/** Runs a program to its end and returns what it printed. */
import type { FileHandle } from "node:fs/promises";
import { constants } from "node:os";
import type { Readable } from "node:stream";

import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { endChild, startChild, type Child } from "./child.ts";

/** Most bytes of standard output unless the caller says otherwise. */
export const TOOL_OUTPUT_BYTES_MAX = 16 * 1024 * 1024;
/** The end of standard error that is kept. */
export const TOOL_STDERR_BYTES_MAX = 64 * 1024;
/** How long a program has between SIGTERM and SIGKILL. */
export const TOOL_STOP_GRACE_MS = 2_000;
/** How long output may follow the exit, where a grandchild holds the pipe. */
const TOOL_DRAIN_MS = 1_000;

/** How a program is run. */
export interface ToolOptions {
  /** The program is ended after this long; ToolFailed. */
  readonly timeoutMs: number;
  /** Ends the program; the call rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Written to standard input, which is closed after it; empty without. */
  readonly stdin?: string | Uint8Array;
  /** Is standard input, in place of `stdin`; stays open here. */
  readonly stdinFile?: FileHandle;
  readonly outputBytesMax?: number;
  readonly cwd?: string;
  /** Added to the environment, which holds only PATH and LC_ALL=C. */
  readonly env?: Readonly<Record<string, string>>;
  /** The kernel kills the program when we die. */
  readonly dieWithParent?: boolean;
  readonly clock?: Clock;
}

/** What a program printed and how it ended. */
export interface ToolResult {
  /** 128 + signal number where a signal ended it, as shells have it. */
  readonly exitCode: number;
  readonly stdout: string;
  /** At most the last {@link TOOL_STDERR_BYTES_MAX} bytes. */
  readonly stderr: string;
}

/**
 * Runs `command` (a bare name or an absolute path) with `args`, never through a shell, and waits
 * for its end. An exit code other than 0 is a result, not an error; see {@link assertToolSucceeded}.
 *
 * Errors: ToolMissing (after-change) names the package; ToolFailed (backoff) on timeout, on a
 * program that cannot be started, and on more output than allowed. On every error the program has
 * ended when the call rejects.
 */
export async function runTool(
  command: string,
  args: readonly string[],
  options: ToolOptions,
): Promise<ToolResult> {
  options.signal?.throwIfAborted();
  const child = await startChild(command, args, {
    stdio: [options.stdinFile?.fd ?? "pipe", "pipe", "pipe"],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: options.env }),
    dieWithParent: options.dieWithParent ?? false,
  });
  const guard = guardChild(child, command, options);
  const stdout = new OutputCollector(options.outputBytesMax ?? TOOL_OUTPUT_BYTES_MAX);
  const stderr = new OutputCollector(TOOL_STDERR_BYTES_MAX);
  const { stdin } = child.process;
  // A program may end without reading its input; what it then says is in the result.
  stdin?.on("error", () => undefined);
  stdin?.end(options.stdin);
  stdout.collect(child.process.stdout, () => {
    guard.fail(toolFailed(command, `it printed more than ${String(stdout.bytesMax)} bytes`));
  });
  stderr.collect(child.process.stderr, () => undefined);
  const status = await child.exited;
  await guard.done();
  await drain([child.process.stdout, child.process.stderr], options.clock ?? systemClock);
  guard.throwIfFailed();
  return {
    exitCode: status.code ?? 128 + signalNumber(status.signal),
    stdout: stdout.text(),
    stderr: stderr.text(),
  };
}

/** Throws ToolFailed with the last line of standard error unless the program exited with 0. */
export function assertToolSucceeded(command: string, result: ToolResult): void {
  if (result.exitCode === 0) return;
  throw toolFailed(command, lastLine(result.stderr) ?? `exit code ${String(result.exitCode)}`);
}

/** The last line of `text` that is not empty. */
export function lastLine(text: string): string | undefined {
  return text.trimEnd().split("\n").at(-1)?.trim() || undefined;
}

/** The error of a program that did not do its work. */
export function toolFailed(command: string, reason: string): KluisError {
  return new KluisError("ToolFailed", `Cannot run "${command}": ${reason}`, {
    details: { tool: command },
  });
}

/** Ends a child on timeout, abort or a failure told by the caller, and remembers why. */
export interface ChildGuard {
  /** Ends the child; the first reason counts. */
  fail(reason: unknown): void;
  /** Disarms the guard and resolves when a kill under way is over. */
  done(): Promise<void>;
  throwIfFailed(): void;
}

/** Arms a {@link ChildGuard}; internal to this folder. */
export function guardChild(
  child: Child,
  command: string,
  options: Pick<ToolOptions, "timeoutMs" | "signal" | "clock">,
): ChildGuard {
  const clock = options.clock ?? systemClock;
  const disarm = new AbortController();
  let failure: { readonly reason: unknown } | undefined;
  let ending: Promise<unknown> = Promise.resolve();
  function fail(reason: unknown): void {
    if (failure !== undefined || disarm.signal.aborted) return;
    failure = { reason };
    ending = endChild(child, TOOL_STOP_GRACE_MS, clock);
  }
  const onAbort = (): void => {
    fail(options.signal?.reason);
  };
  options.signal?.addEventListener("abort", onAbort, { once: true });
  if (options.signal?.aborted === true) onAbort();
  const timer = clock.sleep(options.timeoutMs, disarm.signal).then(
    () => {
      fail(toolFailed(command, `it did not end within ${String(options.timeoutMs)} ms`));
    },
    // Disarmed: the program ended in time.
    () => undefined,
  );
  return {
    fail,
    done: async () => {
      disarm.abort();
      options.signal?.removeEventListener("abort", onAbort);
      await timer;
      await ending;
    },
    throwIfFailed: () => {
      if (failure !== undefined) throw failure.reason;
    },
  };
}

/** Keeps the last `bytesMax` bytes of a stream and tells when there were more. */
class OutputCollector {
  readonly bytesMax: number;
  #chunks: Buffer[] = [];
  #sizeBytes = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  collect(stream: Readable | null, onOverflow: () => void): void {
    stream?.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#sizeBytes += chunk.byteLength;
      if (this.#sizeBytes <= this.bytesMax) return;
      const kept = Buffer.concat(this.#chunks).subarray(-this.bytesMax);
      this.#chunks = [kept];
      this.#sizeBytes = kept.byteLength;
      onOverflow();
    });
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString("utf8");
  }
}

/** Waits for the end of both streams, which a grandchild may hold open: then they are cut. */
async function drain(streams: readonly (Readable | null)[], clock: Clock): Promise<void> {
  const patience = new AbortController();
  const ended = streams.map((stream) =>
    stream === null || stream.closed
      ? Promise.resolve()
      : new Promise<void>((resolve) => stream.once("close", resolve)),
  );
  const cut = clock.sleep(TOOL_DRAIN_MS, patience.signal).then(
    () => {
      for (const stream of streams) stream?.destroy();
    },
    // Both ended in time.
    () => undefined,
  );
  await Promise.all(ended);
  patience.abort();
  await cut;
}

function signalNumber(signal: NodeJS.Signals | undefined): number {
  return signal === undefined ? 0 : constants.signals[signal];
}
