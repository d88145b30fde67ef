/**
 * The guard of one round: a process and session of its own that owns the agent's socket, and thaws
 * the guest and has its post script run when Kluis dies, stops, or takes too long. Started by
 * `freeze-round.ts`.
 */
import { present } from "#base/assert.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import { isKluisError, KluisError, toKluisError } from "#base/kluis-error.ts";
import { runGuard, type GuardAlarm, type GuardDuty } from "./guard-server.ts";
import {
  parseGuardConfig,
  planFreezeTimes,
  type FreezePlan,
  type FreezeTimes,
  type GuardConfig,
  type GuardResult,
  type GuardTask,
} from "./guard-wire.ts";
import { GuestAgent } from "./guest-agent.ts";
import { freezeGuest, isGuestFrozen, thawGuest } from "./guest-commands.ts";
import { armWatchdog, disarmWatchdog } from "./guest-watchdog.ts";
import { orderPost, runPost, runPre, scriptPatienceMs } from "./scripts/run-scripts.ts";

const THAW_RETRY_MS = 50;
/** After so long without success the guest's own watchdog, or VSS, has thawed, or the guest is gone. */
const THAW_TRIES_MS_MAX = 30_000;

const alarmReasons: Readonly<Record<GuardAlarm, string>> = {
  gone: "Kluis ended before it let the guest go on",
  silent: "Kluis stood still before it let the guest go on",
  "too-old": "the guard is too old",
};

class FreezeDuty implements GuardDuty {
  readonly silenceMsMax = 2_000;
  readonly extraLifetimeMs: number;
  readonly #agentSocket: string;
  readonly #plan: FreezePlan;
  readonly #times: FreezeTimes;
  readonly #clock: Clock;
  #agent: GuestAgent | undefined;
  #isWatchdogArmed = false;
  #armedAtMs: number | undefined;
  /** Since when VSS holds writes, where it is the one who does. */
  #heldAtMs: number | undefined;
  /** Until when a freeze that has not answered may still happen. */
  #mayFreezeUntilMs = 0;
  #isKluisGone = false;
  #isFrozen = false;
  /** From the start of the pre script until the post script is ordered. */
  #isQuiesced = false;
  #thawing: Promise<number> | undefined;
  #thawedCount = 0;
  #selfReason: string | undefined;

  constructor(config: GuardConfig, clock: Clock) {
    this.#agentSocket = config.targetSocket;
    this.#plan = present(config.freeze, "a freeze has a plan");
    this.#times = planFreezeTimes(this.#plan);
    this.#clock = clock;
    const { scripts } = this.#plan;
    const scriptsMs =
      scripts === undefined ? 0 : scriptPatienceMs(scripts.pre) + scriptPatienceMs(scripts.post);
    this.extraLifetimeMs = scriptsMs + this.#times.freezeAnswersMs + this.#times.thawAnswersMs;
  }

  async perform(task: Exclude<GuardTask, "beat">): Promise<GuardResult> {
    if (task === "quiesce") return this.#quiesce();
    if (task === "arm") return this.#arm();
    if (task === "freeze") return this.#freeze();
    if (task === "thaw") return { count: await this.#thaw(), ...this.#withReason() };
    if (task === "resume") return this.#resume();
    if (task === "prepare") await this.#session();
    else await this.#disarm();
    return {};
  }

  async patrol(alarm: GuardAlarm | undefined): Promise<void> {
    if (alarm === "gone") this.#isKluisGone = true;
    if (!this.#isFrozen && !this.#isQuiesced) return;
    const isOverdue = this.#isFrozen && this.#clock.monotonicMs() >= this.#deadlineMs();
    if (alarm !== undefined) await this.#letGo(alarmReasons[alarm]);
    else if (isOverdue) await this.#letGo("the freeze took longer than it may");
  }

  async leave(): Promise<void> {
    try {
      if (this.#isQuiesced) await this.#orderPost();
      await this.#disarm();
    } catch (error) {
      // They end by themselves, and the next round sees to one that still lives before it freezes.
      if (!isKluisError(error)) throw error;
    }
    await this.#agent?.[Symbol.asyncDispose]();
    this.#agent = undefined;
  }

  /** Infinite where VSS does not hold writes yet: a thaw would wait behind the freeze. */
  #deadlineMs(): number {
    if (this.#plan.keeper === "vss") {
      return (this.#heldAtMs ?? Number.POSITIVE_INFINITY) + this.#times.guardThawsAfterMs;
    }
    const armedAtMs = present(this.#armedAtMs, "the watchdog is armed before a freeze");
    return armedAtMs + this.#times.guardThawsAfterMs;
  }

  /** The agent; a new session thaws by itself. */
  async #session(): Promise<GuestAgent> {
    this.#agent ??= await GuestAgent.open(this.#agentSocket, { clock: this.#clock });
    return this.#agent;
  }

  async #quiesce(): Promise<GuardResult> {
    const order = present(this.#plan.scripts, "scripts that are run have been planned");
    const agent = await this.#session();
    this.#assertKluisLives("run the pre script");
    this.#isQuiesced = true;
    return { script: await runPre(agent, { token: this.#plan.token, order }) };
  }

  async #arm(): Promise<GuardResult> {
    const agent = await this.#session();
    if (this.#plan.keeper === "vss") return {};
    const { token } = this.#plan;
    try {
      const afterMs = this.#times.guestThawsAfterMs;
      const armed = await armWatchdog(agent, { token, afterMs });
      this.#isWatchdogArmed = true;
      this.#armedAtMs = armed.armedAtMs;
      return {};
    } catch (error) {
      const mayFreeze = this.#plan.mayFreezeUnwatched === true;
      if (!mayFreeze || !isKluisError(error, "AgentFailed")) throw error;
      this.#armedAtMs = this.#clock.monotonicMs();
      return { isUnwatched: true };
    }
  }

  async #freeze(): Promise<GuardResult> {
    const agent = await this.#session();
    this.#assertKluisLives("freeze");
    // The instant would count for nothing, and the application writes already.
    if (this.#selfReason !== undefined) throw new KluisError("Cancelled", this.#selfReason);
    const leftMs = this.#deadlineMs() - this.#clock.monotonicMs();
    const timeoutMs = Math.min(leftMs, this.#times.freezeAnswersMs);
    if (timeoutMs <= 0) {
      throw new KluisError("AgentFailed", "Cannot freeze the guest: preparing it took too long");
    }
    // From the moment it is sent the guest may be frozen, whatever is answered.
    this.#isFrozen = true;
    this.#mayFreezeUntilMs = this.#clock.monotonicMs() + timeoutMs;
    try {
      const { mountPoints } = this.#plan;
      const mounts = mountPoints === undefined ? {} : { mountPoints };
      const count = await freezeGuest(agent, { timeoutMs, ...mounts });
      this.#mayFreezeUntilMs = 0;
      this.#heldAtMs = this.#clock.monotonicMs();
      return { count };
    } catch (error) {
      // Kluis waits for the answer and has a thaw of its own to ask; the patrol goes on trying.
      if (isKluisError(error, "AgentUnavailable")) agent.post("guest-fsfreeze-thaw");
      else await this.#letGo("the freeze failed");
      throw error;
    }
  }

  async #resume(): Promise<GuardResult> {
    const order = present(this.#plan.scripts, "scripts that are run have been planned");
    const agent = await this.#session();
    const script = await runPost(agent, { token: this.#plan.token, order });
    this.#isQuiesced = false;
    return { script, ...this.#withReason() };
  }

  #assertKluisLives(what: string): void {
    if (this.#isKluisGone) throw new KluisError("Cancelled", `Cannot ${what}: Kluis has ended`);
  }

  #withReason(): Pick<GuardResult, "selfReason"> {
    return this.#selfReason === undefined ? {} : { selfReason: this.#selfReason };
  }

  /** Thaws, and has the post script run, without being asked. */
  async #letGo(reason: string): Promise<void> {
    this.#selfReason ??= reason;
    try {
      if (this.#isFrozen) await this.#thaw();
      // Kluis may stand still for long: others need the agent.
      await this.leave();
    } catch (error) {
      // The agent is gone for good: the watchdog in the guest thaws, and the next session clears up.
      this.#selfReason = `${reason}; ${toKluisError(error).message}`;
      this.#isFrozen = false;
    }
    // Where the order did not arrive, the supervisor in the guest runs the script at its deadline.
    this.#isQuiesced = false;
  }

  async #orderPost(): Promise<void> {
    await orderPost(await this.#session(), this.#plan.token);
    this.#isQuiesced = false;
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
    const triesEndMs = this.#clock.monotonicMs() + THAW_TRIES_MS_MAX;
    for (;;) {
      try {
        return await this.#tryThaw();
      } catch (error) {
        await this.#agent?.[Symbol.asyncDispose]();
        this.#agent = undefined;
        const nowMs = this.#clock.monotonicMs();
        if (nowMs > triesEndMs && nowMs > this.#mayFreezeUntilMs) throw error;
      }
      await this.#clock.sleep(THAW_RETRY_MS);
    }
  }

  async #tryThaw(): Promise<number> {
    const timeoutMs = this.#times.thawTryMs;
    if (this.#agent !== undefined) return this.#thawBy(this.#agent, timeoutMs);
    // A new session thaws by itself.
    this.#agent = await GuestAgent.open(this.#agentSocket, { timeoutMs, clock: this.#clock });
    this.#selfReason ??= this.#agent.leftoverReason;
    return this.#agent.leftoverThawed ?? 0;
  }

  /** VSS may end a hold and then call the thaw an error: the guest goes on, and the hold is void. */
  async #thawBy(agent: GuestAgent, timeoutMs: number): Promise<number> {
    try {
      return await thawGuest(agent, { timeoutMs });
    } catch (error) {
      if (!isKluisError(error, "AgentFailed") || (await isGuestFrozen(agent))) throw error;
      this.#selfReason ??= error.message;
      return 0;
    }
  }

  async #disarm(): Promise<void> {
    if (!this.#isWatchdogArmed || this.#agent === undefined) return;
    await disarmWatchdog(this.#agent, this.#plan.token);
    this.#isWatchdogArmed = false;
  }
}

if (import.meta.main) {
  const config = parseGuardConfig(process.argv[2] ?? "");
  await runGuard(config, new FreezeDuty(config, systemClock), systemClock);
}
