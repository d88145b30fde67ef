/**
 * The guard of one freeze: a process and session of its own that owns the agent's socket, and thaws
 * the guest when Kluis dies, stops, or takes too long. Started by `freeze-round.ts`.
 */
import { present } from "#base/assert.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import { isKluisError, KluisError, toKluisError } from "#base/kluis-error.ts";
import { runGuard, type GuardAlarm, type GuardDuty } from "./guard-server.ts";
import {
  parseGuardConfig,
  planFreezeTimes,
  type FreezeTimes,
  type GuardConfig,
  type GuardResult,
  type GuardTask,
} from "./guard-wire.ts";
import { GuestAgent } from "./guest-agent.ts";
import { freezeGuest, thawGuest } from "./guest-commands.ts";
import { armWatchdog, disarmWatchdog, type ArmedWatchdog } from "./guest-watchdog.ts";

/** How long one try to thaw may take. */
const THAW_TRY_MS = 2_000;
const THAW_RETRY_MS = 50;
/** After so long without success the guest's own watchdog has thawed, or the guest is gone. */
const THAW_TRIES_MS_MAX = 30_000;

const alarmReasons: Readonly<Record<GuardAlarm, string>> = {
  gone: "Kluis ended while the guest was frozen",
  silent: "Kluis stood still while the guest was frozen",
  "too-old": "the guard is too old",
};

class FreezeDuty implements GuardDuty {
  readonly silenceMsMax = 2_000;
  readonly #agentSocket: string;
  readonly #times: FreezeTimes;
  readonly #clock: Clock;
  #agent: GuestAgent | undefined;
  #watchdog: ArmedWatchdog | undefined;
  #isKluisGone = false;
  #isFrozen = false;
  #thawing: Promise<number> | undefined;
  #thawedCount = 0;
  #selfThawReason: string | undefined;

  constructor(config: GuardConfig, clock: Clock) {
    this.#agentSocket = config.targetSocket;
    this.#times = planFreezeTimes(present(config.budgetMs, "a freeze has a budget"));
    this.#clock = clock;
  }

  async perform(task: Exclude<GuardTask, "beat">): Promise<GuardResult> {
    if (task === "prepare") return this.#prepare();
    if (task === "freeze") return this.#freeze();
    if (task === "thaw") return this.#thawAsAsked();
    await this.#disarm();
    return {};
  }

  async patrol(alarm: GuardAlarm | undefined): Promise<void> {
    if (alarm === "gone") this.#isKluisGone = true;
    if (!this.#isFrozen) return;
    const isOverdue = this.#clock.monotonicMs() >= this.#deadlineMs();
    if (alarm !== undefined) await this.#thawBySelf(alarmReasons[alarm]);
    else if (isOverdue) await this.#thawBySelf("the freeze took longer than it may");
  }

  async leave(): Promise<void> {
    try {
      await this.#disarm();
    } catch (error) {
      // It ends by itself, and the next round kills one that still lives before it freezes.
      if (!isKluisError(error)) throw error;
    }
    await this.#agent?.[Symbol.asyncDispose]();
    this.#agent = undefined;
  }

  #deadlineMs(): number {
    const { armedAtMs } = present(this.#watchdog, "the watchdog is armed before a freeze");
    return armedAtMs + this.#times.guardThawsAfterMs;
  }

  async #prepare(): Promise<GuardResult> {
    this.#agent = await GuestAgent.open(this.#agentSocket, { clock: this.#clock });
    const afterMs = this.#times.guestThawsAfterMs;
    this.#watchdog = await armWatchdog(this.#agent, { afterMs });
    return { token: this.#watchdog.token };
  }

  async #freeze(): Promise<GuardResult> {
    const agent = present(this.#agent, "a guard is prepared before it freezes");
    if (this.#isKluisGone) throw new KluisError("Cancelled", "Cannot freeze: Kluis has ended");
    const timeoutMs = this.#deadlineMs() - this.#clock.monotonicMs();
    if (timeoutMs <= 0) {
      throw new KluisError("AgentFailed", "Cannot freeze the guest: preparing it took too long");
    }
    // From the moment it is sent the guest may be frozen, whatever is answered.
    this.#isFrozen = true;
    try {
      return { count: await freezeGuest(agent, { timeoutMs }) };
    } catch (error) {
      // Kluis waits for the answer and has a thaw of its own to ask; the patrol goes on trying.
      if (isKluisError(error, "AgentUnavailable")) agent.post("guest-fsfreeze-thaw");
      else await this.#thawBySelf("the freeze failed");
      throw error;
    }
  }

  async #thawAsAsked(): Promise<GuardResult> {
    const count = await this.#thaw();
    const reason = this.#selfThawReason;
    return { count, ...(reason === undefined ? {} : { selfThawReason: reason }) };
  }

  async #thawBySelf(reason: string): Promise<void> {
    this.#selfThawReason ??= reason;
    try {
      await this.#thaw();
      // Kluis may stand still for long: others need the agent.
      await this.leave();
    } catch (error) {
      // The agent is gone for good: the watchdog in the guest thaws, and the next session clears up.
      this.#selfThawReason = `${reason}; ${toKluisError(error).message}`;
      this.#isFrozen = false;
    }
  }

  /** Thaws once, however often it is called; returns how many file systems were frozen. */
  async #thaw(): Promise<number> {
    if (!this.#isFrozen) return this.#thawedCount;
    this.#thawing ??= this.#thawUntilDone();
    try {
      this.#thawedCount = await this.#thawing;
      this.#isFrozen = false;
      return this.#thawedCount;
    } finally {
      this.#thawing = undefined;
    }
  }

  async #thawUntilDone(): Promise<number> {
    const startMs = this.#clock.monotonicMs();
    for (;;) {
      try {
        return await this.#tryThaw();
      } catch (error) {
        await this.#agent?.[Symbol.asyncDispose]();
        this.#agent = undefined;
        if (this.#clock.monotonicMs() - startMs > THAW_TRIES_MS_MAX) throw error;
      }
      await this.#clock.sleep(THAW_RETRY_MS);
    }
  }

  async #tryThaw(): Promise<number> {
    const timeoutMs = THAW_TRY_MS;
    if (this.#agent !== undefined) return thawGuest(this.#agent, { timeoutMs });
    // A new session thaws by itself.
    this.#agent = await GuestAgent.open(this.#agentSocket, { timeoutMs, clock: this.#clock });
    return this.#agent.leftoverThawed ?? 0;
  }

  async #disarm(): Promise<void> {
    const watchdog = this.#watchdog;
    if (watchdog === undefined || this.#agent === undefined) return;
    await disarmWatchdog(this.#agent, watchdog.token);
    this.#watchdog = undefined;
  }
}

if (import.meta.main) {
  const config = parseGuardConfig(process.argv[2] ?? "");
  await runGuard(config, new FreezeDuty(config, systemClock), systemClock);
}
