/**
 * One round of quiescing a guest, as the snapshot sees it: pre script, freeze, thaw, post script, and
 * cleared up whatever happens. The work is done by the guard (`freeze-guard.ts`); where the guard is
 * lost, here.
 */
import { fileURLToPath } from "node:url";

import { present } from "#base/assert.ts";
import type { Clock } from "#base/clock.ts";
import { isKluisError, toKluisError } from "#base/kluis-error.ts";
import { GuardLink } from "./guard-link.ts";
import {
  planFreezeTimes,
  type FreezePlan,
  type FreezeTimes,
  type GuardResult,
} from "./guard-wire.ts";
import { AGENT_SYNC_TIMEOUT_MS, GuestAgent } from "./guest-agent.ts";
import { createRoundToken, disarmWatchdog, GUEST_SYNC_TIMEOUT_MS } from "./guest-watchdog.ts";
import {
  orderPost,
  parseScriptReport,
  runPost,
  scriptPatienceMs,
  type ScriptReport,
} from "./scripts/run-scripts.ts";

const program = fileURLToPath(new URL("freeze-guard.ts", import.meta.url));

/** The agent's session and the watchdog, beyond the guest's own sync. */
const PREPARE_EXTRA_MS = 15_000;
const THAW_RETRY_MS = 50;

/** Where a round puts its files, and how long it may last. */
export interface FreezeRoundOptions {
  readonly agentSocket: string;
  /** Folder for the guard's socket, identity and log. */
  readonly runDirectory: string;
  readonly plan: Omit<FreezePlan, "token">;
  readonly clock: Clock;
}

/** What a thaw showed. `reason` is why the freeze does not count; absent where it does. */
export interface ThawReport {
  readonly frozenMs: number;
  readonly reason?: string;
}

/** What became of the post script. `selfReason`: why it was ordered before Kluis did; absent where not. */
export interface PostReport {
  readonly report: ScriptReport;
  readonly selfReason?: string;
}

/** See above. Calls do not overlap. */
export class FreezeRound implements AsyncDisposable {
  readonly #options: FreezeRoundOptions;
  readonly #clock: Clock;
  readonly #guard: GuardLink;
  readonly #plan: FreezePlan;
  readonly #times: FreezeTimes;
  /** When the watchdog was armed, or VSS said that it holds writes. */
  #keptSinceMs = 0;
  #isQuiesced = false;
  #isUnwatched = false;
  #freezeStartMs: number | undefined;
  #frozenCount: number | undefined;
  #thawReport: ThawReport | undefined;
  #isDisposed = false;

  private constructor(guard: GuardLink, options: FreezeRoundOptions & { plan: FreezePlan }) {
    this.#guard = guard;
    this.#plan = options.plan;
    this.#times = planFreezeTimes(options.plan);
    this.#options = options;
    this.#clock = options.clock;
  }

  /**
   * Starts the guard, which takes the agent and, where no script is to be run first, arms the
   * watchdog in the guest; none where VSS is the keeper. No other guard of this VM may live.
   *
   * Errors: Agent*, ToolFailed where the guest cannot be frozen safely; nothing is left behind then.
   */
  static async open(
    options: FreezeRoundOptions,
    signal: AbortSignal | undefined,
  ): Promise<FreezeRound> {
    const { agentSocket, runDirectory, clock } = options;
    const plan = { ...options.plan, token: createRoundToken() };
    const config = { targetSocket: agentSocket, freeze: plan };
    const guard = await GuardLink.start({ program, runDirectory, config, clock }, signal);
    const round = new FreezeRound(guard, { ...options, plan });
    try {
      await guard.ask("prepare", { timeoutMs: PREPARE_EXTRA_MS, signal });
      if (plan.scripts === undefined) await round.arm(signal);
      return round;
    } catch (error) {
      await round[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Whether no watchdog runs in the guest, as the plan allows. */
  get isUnwatched(): boolean {
    return this.#isUnwatched;
  }

  /** Runs the pre script; post is run at the end, whatever happens. Errors: Agent*. */
  async quiesce(signal: AbortSignal | undefined): Promise<ScriptReport> {
    const { pre } = present(this.#plan.scripts, "scripts that are run have been planned");
    this.#isQuiesced = true;
    const timeoutMs = scriptPatienceMs(pre) + PREPARE_EXTRA_MS;
    const { script } = await this.#guard.ask("quiesce", { timeoutMs, signal });
    return parseScriptReport(script ?? "");
  }

  /** Arms the watchdog in the guest. Errors: Agent* where it cannot have one: then nothing is frozen. */
  async arm(signal: AbortSignal | undefined): Promise<void> {
    const timeoutMs = GUEST_SYNC_TIMEOUT_MS + PREPARE_EXTRA_MS;
    const { isUnwatched } = await this.#guard.ask("arm", { timeoutMs, signal });
    this.#isUnwatched = isUnwatched === true;
    this.#keptSinceMs = this.#clock.monotonicMs();
  }

  /** Has the post script run, and waits for it. Errors: Agent* where nobody could tell. */
  async resume(): Promise<PostReport> {
    const order = present(this.#plan.scripts, "scripts that are run have been planned");
    const timeoutMs = scriptPatienceMs(order.post) + PREPARE_EXTRA_MS;
    try {
      const { script, selfReason } = await this.#guard.ask("resume", { timeoutMs });
      this.#isQuiesced = false;
      const reason = selfReason === undefined ? {} : { selfReason };
      return { report: parseScriptReport(script ?? ""), ...reason };
    } catch (error) {
      if (!isKluisError(error, "AgentUnavailable")) throw error;
    }
    await this.#guard.kill();
    await using agent = await GuestAgent.open(this.#options.agentSocket, { clock: this.#clock });
    const script = await runPost(agent, { token: this.#plan.token, order });
    this.#isQuiesced = false;
    return { report: parseScriptReport(script) };
  }

  /** Freezes every file system; returns how many. Errors: Agent*; the guest is thawed then. */
  async freeze(signal: AbortSignal | undefined): Promise<number> {
    this.#freezeStartMs = this.#clock.monotonicMs();
    const timeoutMs = this.#times.freezeAnswersMs;
    try {
      const { count } = await this.#guard.ask("freeze", { timeoutMs, signal });
      if (this.#plan.keeper === "vss") {
        // Before that VSS lets the writers prepare, while everything goes on.
        this.#freezeStartMs = this.#clock.monotonicMs();
        this.#keptSinceMs = this.#freezeStartMs;
      }
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

  /**
   * Thaws where needed, has post run where it was not, disarms the watchdog and ends the guard, so
   * that the agent is free. Once, however often it is called.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    if (this.#freezeStartMs !== undefined) await this.thaw();
    if (!(await this.#guard.finish())) await this.#clearWithoutGuard();
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
      return await this.#guard.ask("thaw", { timeoutMs: this.#times.thawAnswersMs });
    } catch (error) {
      if (!isKluisError(error)) throw error;
    }
    await this.#guard.kill();
    return this.#thawWithoutGuard();
  }

  /**
   * The guard is dead, so that the agent's socket is free; a new session thaws. A freeze that has not
   * answered may still happen: until then the agent is busy, and whoever gave up would leave it frozen.
   */
  async #thawWithoutGuard(): Promise<GuardResult> {
    const startMs = this.#clock.monotonicMs();
    const isAnswered = this.#frozenCount !== undefined;
    const askedMs = present(this.#freezeStartMs, "a thaw follows a freeze");
    const mayFreezeUntilMs = isAnswered ? 0 : askedMs + this.#times.freezeAnswersMs;
    const patienceMs = Math.max(AGENT_SYNC_TIMEOUT_MS, this.#times.thawTryMs);
    const endMs = Math.max(startMs + patienceMs, mayFreezeUntilMs);
    for (;;) {
      try {
        const timeoutMs = Math.max(patienceMs, endMs - this.#clock.monotonicMs());
        const options = { timeoutMs, clock: this.#clock };
        await using agent = await GuestAgent.open(this.#options.agentSocket, options);
        const { leftoverThawed: count = 0, leftoverReason: selfReason } = agent;
        return { count, ...(selfReason === undefined ? {} : { selfReason }) };
      } catch (error) {
        if (this.#clock.monotonicMs() >= endMs) {
          return { count: 0, selfReason: toKluisError(error).message };
        }
      }
      await this.#clock.sleep(THAW_RETRY_MS);
    }
  }

  async #clearWithoutGuard(): Promise<void> {
    const { token } = this.#plan;
    try {
      await using agent = await GuestAgent.open(this.#options.agentSocket, { clock: this.#clock });
      if (this.#isQuiesced) await orderPost(agent, token);
      if (this.#plan.keeper !== "vss") await disarmWatchdog(agent, token);
    } catch (error) {
      // They end by themselves, and the next round sees to one that still lives before it freezes.
      if (!isKluisError(error)) throw error;
    }
  }

  #judge(result: GuardResult, askedMs: number): string | undefined {
    const frozen = this.#frozenCount;
    if (frozen === undefined) return "the freeze failed";
    if (result.selfReason !== undefined) return result.selfReason;
    if (askedMs - this.#keptSinceMs > this.#times.guestThawsAfterMs)
      return "the freeze took longer than it may";
    if (result.count === frozen) return undefined;
    return `the thaw found ${String(result.count ?? 0)} of ${String(frozen)} file systems frozen`;
  }
}
