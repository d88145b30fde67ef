/**
 * One freeze of a guest, as the snapshot sees it: prepared, frozen, thawed, and cleared up whatever
 * happens. The work is done by the guard (`freeze-guard.ts`); where the guard is lost, here.
 */
import { fileURLToPath } from "node:url";

import { present } from "#base/assert.ts";
import type { Clock } from "#base/clock.ts";
import { isKluisError, toKluisError } from "#base/kluis-error.ts";
import { GuardLink } from "./guard-link.ts";
import { planFreezeTimes, type GuardResult } from "./guard-wire.ts";
import { GuestAgent } from "./guest-agent.ts";
import { disarmWatchdog, GUEST_SYNC_TIMEOUT_MS } from "./guest-watchdog.ts";

const program = fileURLToPath(new URL("freeze-guard.ts", import.meta.url));

/** The agent's session and the watchdog, beyond the guest's own sync. */
const PREPARE_EXTRA_MS = 15_000;
/** A guard that lives answers once the guest's hooks have run; one that does not is replaced. */
const THAW_ANSWER_MS_MAX = 3_000;

/** Where a round puts its files, and how long it may last. */
export interface FreezeRoundOptions {
  readonly agentSocket: string;
  /** Folder for the guard's socket, identity and log. */
  readonly runDirectory: string;
  readonly budgetMs: number;
  readonly clock: Clock;
}

/** What a thaw showed. `reason` is why the freeze does not count; absent where it does. */
export interface ThawReport {
  readonly frozenMs: number;
  readonly reason?: string;
}

/** See above. Calls do not overlap. */
export class FreezeRound implements AsyncDisposable {
  readonly #options: FreezeRoundOptions;
  readonly #clock: Clock;
  readonly #guard: GuardLink;
  #token: string | undefined;
  #armedAtMs = 0;
  #freezeStartMs: number | undefined;
  #frozenCount: number | undefined;
  #thawReport: ThawReport | undefined;

  private constructor(guard: GuardLink, options: FreezeRoundOptions) {
    this.#guard = guard;
    this.#options = options;
    this.#clock = options.clock;
  }

  /**
   * Starts the guard, which takes the agent and arms the watchdog in the guest. No other guard of
   * this VM may live.
   *
   * Errors: Agent*, ToolFailed where the guest cannot be frozen safely; nothing is left behind then.
   */
  static async open(
    options: FreezeRoundOptions,
    signal: AbortSignal | undefined,
  ): Promise<FreezeRound> {
    const { agentSocket, runDirectory, budgetMs, clock } = options;
    const config = { targetSocket: agentSocket, budgetMs };
    const guard = await GuardLink.start({ program, runDirectory, config, clock }, signal);
    const round = new FreezeRound(guard, options);
    try {
      const timeoutMs = GUEST_SYNC_TIMEOUT_MS + PREPARE_EXTRA_MS;
      const { token } = await guard.ask("prepare", { timeoutMs, signal });
      round.#token = token;
      round.#armedAtMs = clock.monotonicMs();
      return round;
    } catch (error) {
      await round[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Freezes every file system; returns how many. Errors: Agent*; the guest is thawed then. */
  async freeze(signal: AbortSignal | undefined): Promise<number> {
    this.#freezeStartMs = this.#clock.monotonicMs();
    const timeoutMs = planFreezeTimes(this.#options.budgetMs).guestThawsAfterMs;
    try {
      const { count } = await this.#guard.ask("freeze", { timeoutMs, signal });
      this.#frozenCount = count ?? 0;
      return this.#frozenCount;
    } catch (error) {
      await this.thaw();
      throw error;
    }
  }

  /** Thaws, by the guard or without it; never throws: there is nothing a caller could do better. */
  async thaw(): Promise<ThawReport> {
    this.#thawReport ??= await this.#thaw();
    return this.#thawReport;
  }

  /** Thaws where needed, disarms the watchdog and ends the guard. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#freezeStartMs !== undefined) await this.thaw();
    if (!(await this.#guard.finish())) await this.#disarmWithoutGuard();
  }

  async #thaw(): Promise<ThawReport> {
    const startMs = present(this.#freezeStartMs, "a thaw follows a freeze");
    const askedMs = this.#clock.monotonicMs();
    const result = await this.#thawByAnyone();
    const frozenMs = this.#clock.monotonicMs() - startMs;
    const reason = this.#judge(result, askedMs);
    return { frozenMs, ...(reason === undefined ? {} : { reason }) };
  }

  async #thawByAnyone(): Promise<GuardResult> {
    try {
      return await this.#guard.ask("thaw", { timeoutMs: THAW_ANSWER_MS_MAX });
    } catch (error) {
      if (!isKluisError(error)) throw error;
    }
    // Dead, so that the agent's socket is free; a new session thaws.
    await this.#guard.kill();
    try {
      await using agent = await GuestAgent.open(this.#options.agentSocket, { clock: this.#clock });
      return { count: agent.leftoverThawed ?? 0 };
    } catch (error) {
      return { count: 0, selfThawReason: toKluisError(error).message };
    }
  }

  async #disarmWithoutGuard(): Promise<void> {
    if (this.#token === undefined) return;
    try {
      await using agent = await GuestAgent.open(this.#options.agentSocket, { clock: this.#clock });
      await disarmWatchdog(agent, this.#token);
    } catch (error) {
      // It ends by itself, and the next round kills one that still lives before it freezes.
      if (!isKluisError(error)) throw error;
    }
  }

  #judge(result: GuardResult, askedMs: number): string | undefined {
    const frozen = this.#frozenCount;
    if (frozen === undefined) return "the freeze failed";
    if (result.selfThawReason !== undefined) return result.selfThawReason;
    const { guestThawsAfterMs } = planFreezeTimes(this.#options.budgetMs);
    if (askedMs - this.#armedAtMs > guestThawsAfterMs) return "the freeze took longer than it may";
    if (result.count === frozen) return undefined;
    return `the thaw found ${String(result.count ?? 0)} of ${String(frozen)} file systems frozen`;
  }
}
