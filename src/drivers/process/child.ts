/** How every child process is started and ended; internal to this folder. */
import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";

import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { resolveTool, TOOL_SEARCH_PATH } from "./tool-path.ts";

/** How a process ended: by itself with a code, or by a signal. */
export interface ExitStatus {
  readonly code: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
}

/** What a child is started with. */
export interface ChildOptions {
  readonly stdio: StdioOptions;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** The kernel kills the child when the thread that started it ends, however it ends. */
  readonly dieWithParent?: boolean;
}

/** A started child and its end. */
export interface Child {
  readonly process: ChildProcess;
  readonly pid: number;
  readonly exited: Promise<ExitStatus>;
}

/**
 * Starts `command`, never through a shell. The environment holds only PATH and LC_ALL=C, so that
 * messages can be parsed and no secret of ours (KLUIS_PASSPHRASE) reaches a child. Each child has a
 * session of its own: Ctrl-C reaches us alone, and we end the children in order.
 */
export async function startChild(
  command: string,
  args: readonly string[],
  options: ChildOptions,
): Promise<Child> {
  const path = await resolveTool(command);
  const argv =
    options.dieWithParent === true
      ? [await resolveTool("setpriv"), "--pdeathsig", "KILL", "--", path, ...args]
      : [path, ...args];
  const child = spawn(argv[0] as string, argv.slice(1), {
    stdio: options.stdio,
    shell: false,
    detached: true,
    env: { PATH: TOOL_SEARCH_PATH, LC_ALL: "C", ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  const exited = new Promise<ExitStatus>((resolve) => {
    child.once("exit", (code, signal) => {
      resolve({ code: code ?? undefined, signal: signal ?? undefined });
    });
  });
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", (error) => {
      reject(
        new KluisError("ToolFailed", `Cannot start "${command}": ${error.message}`, {
          details: { tool: command },
          cause: error,
        }),
      );
    });
  });
  // A later "error" can only be a signal that could not be sent, which `exited` makes plain.
  child.on("error", () => undefined);
  return { process: child, pid: child.pid as number, exited };
}

/** Asks the child to end, kills it after `graceMs`, and resolves when it has ended. */
export async function endChild(child: Child, graceMs: number, clock: Clock): Promise<ExitStatus> {
  const patience = new AbortController();
  child.process.kill("SIGTERM");
  const killLater = clock.sleep(graceMs, patience.signal).then(
    () => child.process.kill("SIGKILL"),
    // The child ended in time and the wait was aborted: nothing to kill.
    () => false,
  );
  const status = await child.exited;
  patience.abort();
  await killLater;
  return status;
}
