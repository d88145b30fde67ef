/** Kluis' side of a guard: starts it, keeps it informed that Kluis lives, asks it tasks. */
import { readFile, rm } from "node:fs/promises";
import { getCompileCacheDir } from "node:module";
import { dirname, join } from "node:path";

import type { Clock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { spawnDaemon } from "#drivers/process/daemon.ts";
import {
  KILL_WAIT_MS,
  signalProcess,
  waitForProcessEnd,
  type ProcessIdentity,
} from "#drivers/process/process-identity.ts";
import { isObject } from "#formats/qmp-wire.ts";
import { withDeadline } from "./deadline.ts";
import {
  encodeGuardLine,
  GUARD_BEAT_MS,
  parseGuardAnswer,
  takeGuardResult,
  type GuardAnswer,
  type GuardConfig,
  type GuardResult,
  type GuardTask,
} from "./guard-wire.ts";
import { connectWhenThere, type LineSocket } from "./line-socket.ts";

/** Node starts in 0.1 s; a loaded machine takes longer. */
const READY_MS_MAX = 20_000;
/** The last task, and the end of a guard that has nothing left to do. */
const FINISH_MS_MAX = 8_000;
const END_MS_MAX = 2_000;

/** Which guard is started, and where it leaves its files. */
export interface GuardPlan {
  /** The guard's program. */
  readonly program: string;
  readonly runDirectory: string;
  readonly config: Omit<GuardConfig, "guardSocket" | "identityPath">;
  readonly clock: Clock;
}

/** A connection to a guard. Tasks do not overlap. */
export class GuardLink {
  readonly #runDirectory: string;
  readonly #clock: Clock;
  readonly #identity: ProcessIdentity;
  readonly #beating = new AbortController();
  readonly #answers = new Map<GuardTask, PromiseWithResolvers<GuardResult>>();
  #socket: LineSocket | undefined;
  #isLost = false;

  private constructor(identity: ProcessIdentity, plan: GuardPlan) {
    this.#identity = identity;
    this.#runDirectory = plan.runDirectory;
    this.#clock = plan.clock;
  }

  /** Starts the guard in a session of its own and connects. Errors: ToolFailed, AgentUnavailable. */
  static async start(plan: GuardPlan, signal: AbortSignal | undefined): Promise<GuardLink> {
    const files = planGuardFiles(plan.runDirectory);
    const config: GuardConfig = { ...plan.config, ...files };
    const logPath = join(plan.runDirectory, "guard.log");
    await rm(logPath, { force: true });
    const guard = await spawnDaemon(process.execPath, [plan.program, JSON.stringify(config)], {
      lifetime: "stays",
      logPath,
      isReady: async () => (await readIdentity(files.identityPath)) !== undefined,
      readyTimeoutMs: READY_MS_MAX,
      env: planCompileCache(),
      ...(signal === undefined ? {} : { signal }),
    });
    const link = new GuardLink(guard.identity, plan);
    try {
      await link.#connect(files.guardSocket, signal);
      return link;
    } catch (error) {
      await link.kill();
      throw error;
    }
  }

  /** Whether the guard is known to be dead, or was given up. */
  get isLost(): boolean {
    return this.#isLost;
  }

  /** Asks a task. Errors: those of the task; AgentUnavailable where the guard does not answer in time. */
  async ask(
    task: GuardTask,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
  ): Promise<GuardResult> {
    if (this.#isLost) throw guardLost();
    const answer = Promise.withResolvers<GuardResult>();
    answer.promise.catch(() => undefined);
    this.#answers.set(task, answer);
    this.#socket?.write(encodeGuardLine({ task }));
    return withDeadline(answer.promise, { ...options, clock: this.#clock }, guardLost);
  }

  /** Kills the guard, so that nobody else acts, and gives it up. */
  async kill(): Promise<void> {
    this.#isLost = true;
    await endProcess(this.#identity, this.#clock);
    await this.#forget();
  }

  /** Asks it to finish and waits for its end. False where it could not finish; it is dead all the same. */
  async finish(): Promise<boolean> {
    try {
      await this.ask("finish", { timeoutMs: FINISH_MS_MAX });
    } catch (error) {
      if (!isKluisError(error)) throw error;
      await this.kill();
      return false;
    }
    const patience = { timeoutMs: END_MS_MAX, clock: this.#clock };
    if (!(await waitForProcessEnd(this.#identity, patience))) await this.kill();
    await this.#forget();
    return true;
  }

  async #connect(path: string, signal: AbortSignal | undefined): Promise<void> {
    const events = {
      onLine: (line: { readonly text: string }) => {
        this.#take(line.text);
      },
      onEnd: () => {
        this.#isLost = true;
        for (const answer of this.#answers.values()) answer.reject(guardLost());
      },
    };
    this.#socket = await connectWhenThere(path, events, {
      timeoutMs: READY_MS_MAX,
      clock: this.#clock,
      signal,
    });
    void this.#beat();
  }

  async #beat(): Promise<void> {
    const { signal } = this.#beating;
    while (!signal.aborted) {
      this.#socket?.write(encodeGuardLine({ task: "beat" }));
      try {
        await this.#clock.sleep(GUARD_BEAT_MS, signal);
      } catch (error) {
        if (!signal.aborted) throw error;
      }
    }
  }

  #take(line: string): void {
    let answer: GuardAnswer;
    try {
      answer = parseGuardAnswer(line);
    } catch {
      // A guard that does not speak our language is as good as none.
      this.#socket?.destroy();
      return;
    }
    const waiting = this.#answers.get(answer.task);
    try {
      waiting?.resolve(takeGuardResult(answer));
    } catch (error) {
      waiting?.reject(error);
    }
  }

  async #forget(): Promise<void> {
    this.#beating.abort();
    this.#socket?.destroy();
    for (const path of Object.values(planGuardFiles(this.#runDirectory))) {
      await rm(path, { force: true });
    }
  }
}

/** Ends a guard that a dead run left; then nobody else acts on the machine. */
export async function endLeftoverGuard(runDirectory: string, clock: Clock): Promise<void> {
  const { identityPath } = planGuardFiles(runDirectory);
  const identity = await readIdentity(identityPath);
  if (identity !== undefined) await endProcess(identity, clock);
  await rm(identityPath, { force: true });
}

/** Compiled code is kept where ours is: reading its sources is two thirds of a guard's start. */
function planCompileCache(): Readonly<Record<string, string>> {
  // Node gives the folder of its own version, below the one that it is told.
  const folder = getCompileCacheDir();
  return folder === undefined ? {} : { NODE_COMPILE_CACHE: dirname(folder) };
}

function planGuardFiles(runDirectory: string): Pick<GuardConfig, "guardSocket" | "identityPath"> {
  return {
    guardSocket: join(runDirectory, "guard.sock"),
    identityPath: join(runDirectory, "guard.json"),
  };
}

async function readIdentity(path: string): Promise<ProcessIdentity | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const value: unknown = JSON.parse(text);
  return isObject(value) ? (value as unknown as ProcessIdentity) : undefined;
}

async function endProcess(identity: ProcessIdentity, clock: Clock): Promise<void> {
  await signalProcess(identity, "SIGKILL");
  await waitForProcessEnd(identity, { timeoutMs: KILL_WAIT_MS, clock });
}

function guardLost(): KluisError {
  return new KluisError("AgentUnavailable", "Cannot go on: the guard process does not answer");
}
