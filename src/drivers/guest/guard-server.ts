/**
 * The side of a guard that is the same for all: it leaves its identity, listens for the one
 * connection of Kluis, answers tasks one after the other, and acts when Kluis is gone or silent.
 */
import { rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";

import type { Clock } from "#base/clock.ts";
import { toKluisError } from "#base/kluis-error.ts";
import { readProcessIdentity } from "#drivers/process/process-identity.ts";
import { writeDurably } from "#drivers/layers/durable-file.ts";
import {
  encodeGuardLine,
  parseGuardTask,
  type GuardConfig,
  type GuardResult,
  type GuardTask,
} from "./guard-wire.ts";
import { LineSocket } from "./line-socket.ts";

/** A guard ends after so long, whatever happens, beside what its duty may take. */
const LIFETIME_MS_MAX = 5 * 60_000;
/** A guard to which nobody connects ends. */
const CONNECT_MS_MAX = 10_000;
/** How often a guard looks whether it must act. */
const PATROL_MS = 50;

/** Why a guard acts by itself. */
export type GuardAlarm = "gone" | "silent" | "too-old";

/** What makes one guard different from another. */
export interface GuardDuty {
  /** Without a heartbeat for so long, Kluis counts as stopped. */
  readonly silenceMsMax: number;
  /** How much longer than usual this guard may live, for work that takes its time. */
  readonly extraLifetimeMs: number;
  /** Does a task that Kluis asked; "finish" is the last. */
  perform(task: Exclude<GuardTask, "beat">): Promise<GuardResult>;
  /** Called every 50 ms, with the reason why Kluis cannot be relied on, if there is one. */
  patrol(alarm: GuardAlarm | undefined): Promise<void>;
  /** Called last, also after "finish". */
  leave(): Promise<void>;
}

/** Runs a guard to its end. The process may end when it resolves. */
export async function runGuard(config: GuardConfig, duty: GuardDuty, clock: Clock): Promise<void> {
  const server = new GuardServer(duty, clock);
  const identity = await readProcessIdentity(process.pid);
  await writeDurably(config.identityPath, Buffer.from(JSON.stringify(identity)));
  try {
    await server.listen(config.guardSocket);
    await server.run();
  } finally {
    server.close();
    await rm(config.identityPath, { force: true });
    await rm(config.guardSocket, { force: true });
  }
}

class GuardServer {
  readonly #duty: GuardDuty;
  readonly #clock: Clock;
  readonly #startMs: number;
  readonly #server: Server;
  #kluis: LineSocket | undefined;
  #lastHeardMs: number;
  #isKluisGone = false;
  readonly #finished = new AbortController();
  #busy: Promise<void> = Promise.resolve();

  constructor(duty: GuardDuty, clock: Clock) {
    this.#duty = duty;
    this.#clock = clock;
    this.#startMs = clock.monotonicMs();
    this.#lastHeardMs = this.#startMs;
    this.#server = createServer((socket) => {
      this.#server.close();
      const onLine = (line: { readonly text: string }): void => {
        this.#hear(line.text);
      };
      const onEnd = (): void => {
        this.#isKluisGone = true;
      };
      this.#kluis = LineSocket.accept(socket, { onLine, onEnd });
    });
  }

  async listen(path: string): Promise<void> {
    await rm(path, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(path, resolve);
    });
  }

  async run(): Promise<void> {
    const { signal } = this.#finished;
    while (!signal.aborted) {
      const alarm = this.#alarm();
      await this.#duty.patrol(alarm);
      if (alarm === "gone" || alarm === "too-old") break;
      await this.#clock.sleep(PATROL_MS, signal).catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
    }
    await this.#busy;
    await this.#duty.leave();
  }

  close(): void {
    this.#server.close();
    this.#kluis?.end();
  }

  #hear(line: string): void {
    this.#lastHeardMs = this.#clock.monotonicMs();
    const task = parseGuardTask(line);
    if (task === "beat") return;
    // One task after the other, in the order they were asked.
    this.#busy = this.#busy.then(() => this.#answer(task));
  }

  async #answer(task: Exclude<GuardTask, "beat">): Promise<void> {
    try {
      const result = await this.#duty.perform(task);
      this.#kluis?.write(encodeGuardLine({ task, result }));
      if (task === "finish") this.#finished.abort();
    } catch (error) {
      this.#kluis?.write(encodeGuardLine({ task, error: toKluisError(error).toJSON() }));
    }
  }

  #alarm(): GuardAlarm | undefined {
    const nowMs = this.#clock.monotonicMs();
    if (this.#isKluisGone) return "gone";
    const ageMs = nowMs - this.#startMs;
    const isAlone = this.#kluis === undefined && ageMs > CONNECT_MS_MAX;
    if (ageMs > LIFETIME_MS_MAX + this.#duty.extraLifetimeMs || isAlone) return "too-old";
    if (this.#kluis === undefined) return undefined;
    return nowMs - this.#lastHeardMs > this.#duty.silenceMsMax ? "silent" : undefined;
  }
}
