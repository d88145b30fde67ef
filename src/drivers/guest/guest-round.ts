import { isKluisError, toKluisError, type KluisError } from "#base/kluis-error.ts";
import type {
  ConsistencyEvidence,
  ConsistencyRecord,
  ScriptRun,
  SnapshotRequest,
} from "#ports/hypervisor.ts";
import { callExtension } from "./extension/extension.ts";
import { FreezeRound, type FreezeRoundOptions } from "./freeze-round.ts";
import { GuestAgent } from "./guest-agent.ts";
import { planFreezeTimes, type FreezePlan } from "./guard-wire.ts";
import { prepareGuest, type GuestKnowledge } from "./prepare-guest.ts";
import {
  decideConsistency,
  refusalAfter,
  refusalBefore,
  toRefusalError,
  type FreezeOutcome,
  type ScriptResults,
  type Verdict,
} from "./scripts/decide-consistency.ts";
import { planRoundOrder, type ScriptReport } from "./scripts/run-scripts.ts";

/** Where a round of a guest puts its files. */
export type GuestPlace = Omit<FreezeRoundOptions, "plan">;

/** What may be done to the guest, or why it may not. */
type Means =
  | { readonly round: FreezeRound; readonly guest: GuestKnowledge }
  | { readonly reason: string; readonly guest?: GuestKnowledge };

const unknownRun: ScriptRun = { outcome: "unknown", tries: 0, durationMs: 0 };

/**
 * The guest's part in a snapshot: quiesced by its scripts and frozen where that was asked and works,
 * else the reason why not. Order: open, quiesce, freeze, (the instant), thaw, dispose. Calls do not
 * overlap. Disposing lets the guest go on, whatever happened.
 */
export class GuestRound implements AsyncDisposable {
  readonly #place: GuestPlace;
  readonly #request: SnapshotRequest;
  readonly #means: Means;
  #reason: string | undefined;
  #count = 0;
  #isFrozen = false;
  #pre: ScriptReport | undefined;
  #wasQuiesced = false;
  #note: readonly string[] | undefined;

  private constructor(place: GuestPlace, request: SnapshotRequest, means: Means) {
    this.#place = place;
    this.#request = request;
    this.#means = means;
  }

  /**
   * Never fails for want of a guest agent; that is a reason. Errors: GuestScriptFailed (after-change)
   * where the guest's configuration forbids a backup without its scripts.
   */
  static async open(
    place: GuestPlace,
    request: SnapshotRequest,
    signal: AbortSignal | undefined,
  ): Promise<GuestRound> {
    if (request.consistency === "crash") {
      return new GuestRound(place, request, {
        reason: "a crash-consistent snapshot was asked for",
      });
    }
    let guest: GuestKnowledge | undefined;
    try {
      const knowledge = await lookAt(place, request, signal);
      guest = knowledge;
      const refusal = refusalBefore(knowledge.scripts);
      if (refusal !== undefined) throw await refuse(place, toRefusalError(refusal));
      const plan = planFreeze(knowledge, request);
      const round = await FreezeRound.open({ ...place, plan }, signal);
      return new GuestRound(place, request, { round, guest: knowledge });
    } catch (error) {
      signal?.throwIfAborted();
      if (!isKluisError(error) || error.code === "GuestScriptFailed") throw error;
      const known = guest === undefined ? {} : { guest };
      return new GuestRound(place, request, { reason: error.message, ...known });
    }
  }

  /**
   * Runs the pre script where there is one. Errors: GuestScriptFailed (after-change) where it failed
   * and the backup may not go on; post has been run then.
   */
  async quiesce(signal: AbortSignal | undefined): Promise<void> {
    const means = this.#means;
    if (!("round" in means) || means.guest.scripts.kind !== "run") return;
    this.#wasQuiesced = true;
    try {
      this.#pre = await means.round.quiesce(signal);
      await means.round.arm(signal);
    } catch (error) {
      signal?.throwIfAborted();
      if (!isKluisError(error)) throw error;
      this.#reason = error.message;
    }
    const run = this.#pre?.run ?? unknownRun;
    const refusal = refusalAfter(means.guest.scripts.settings, "pre", run);
    if (refusal === undefined) return;
    await this.#resume();
    this.#note = ["status=refused", `error=${toLine(refusal.reason)}`];
    throw toRefusalError(refusal);
  }

  /** Freezes, where it was asked and nothing speaks against it. */
  async freeze(): Promise<void> {
    const means = this.#means;
    if (!("round" in means) || this.#reason !== undefined || this.#isFreezeOff()) return;
    try {
      this.#count = await means.round.freeze(undefined);
      this.#isFrozen = true;
    } catch (error) {
      if (!isKluisError(error)) throw error;
      this.#reason = error.message;
    }
  }

  /**
   * Thaws, has the post script run, and says what the snapshot is worth. Errors: GuestScriptFailed
   * (after-change) where post failed and the configuration forbids to keep the snapshot.
   */
  async thaw(): Promise<ConsistencyRecord> {
    const means = this.#means;
    if (!("round" in means))
      return this.#record(this.#decide({ kind: "void", reason: means.reason }));
    let freeze: FreezeOutcome = {
      kind: "void",
      reason: this.#reason ?? "the guest was not frozen",
    };
    let frozenMs: number | undefined;
    if (this.#isFreezeOff() && this.#reason === undefined) freeze = { kind: "off" };
    if (this.#isFrozen) {
      const report = await means.round.thaw();
      frozenMs = Math.round(report.frozenMs);
      const reason = this.#count === 0 ? "the guest froze no file system" : report.reason;
      freeze = reason === undefined ? { kind: "counts" } : { kind: "void", reason };
    }
    const results = this.#wasQuiesced ? await this.#resume() : undefined;
    const verdict = this.#decide(freeze, results);
    const { consistency, reason, refusal } = verdict;
    const status = refusal === undefined ? consistency : "refused";
    this.#note = [`status=${status}`, `error=${toLine(refusal?.reason ?? reason ?? "")}`];
    if (refusal !== undefined) throw toRefusalError(refusal);
    return this.#record(verdict, frozenMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!("round" in this.#means)) return;
    await this.#means.round[Symbol.asyncDispose]();
    if (this.#note !== undefined) await keepNote(this.#place, this.#note);
  }

  #isFreezeOff(): boolean {
    const scripts = this.#means.guest?.scripts;
    return scripts?.kind === "run" && !scripts.settings.fsFreezeEnabled;
  }

  async #resume(): Promise<ScriptResults> {
    const pre = this.#pre;
    const results = { pre: pre?.run ?? unknownRun };
    if (!("round" in this.#means)) return { ...results, post: unknownRun };
    try {
      const { report, selfReason } = await this.#means.round.resume();
      const gapReason =
        selfReason ??
        (report.isLate ? "the guest ran the post script before it was asked to" : undefined);
      return {
        ...results,
        post: report.run,
        ...(gapReason === undefined ? {} : { gapReason }),
        ...(pre === undefined ? {} : { quiescedMs: report.endMs - pre.startMs }),
      };
    } catch (error) {
      const gapReason = toKluisError(error).message;
      return { ...results, post: unknownRun, gapReason };
    }
  }

  #decide(freeze: FreezeOutcome, results?: ScriptResults): Verdict {
    const requested = this.#request.consistency;
    const scripts = this.#means.guest?.scripts ?? { kind: "unasked" };
    // Where there was no round, nothing was run, whatever had been planned.
    const wasRun = results !== undefined || scripts.kind !== "run";
    return decideConsistency({
      requested,
      scripts: wasRun ? scripts : { kind: "unknown", reason: "the guest could not be prepared" },
      freeze,
      ...(results === undefined ? {} : { results }),
    });
  }

  #record(verdict: Verdict, frozenMs?: number): ConsistencyRecord {
    const { consistency, reason, scripts } = verdict;
    const { guest } = this.#means;
    const isWatched = "round" in this.#means && !this.#means.round.isUnwatched;
    const mounts = guest?.mounts;
    const evidence: ConsistencyEvidence = {
      requested: this.#request.consistency,
      ...(mounts !== undefined && mounts.length === this.#count ? { mountsFrozen: mounts } : {}),
      ...(guest === undefined || guest.mountsSkipped.length === 0
        ? {}
        : { mountsSkipped: guest.mountsSkipped }),
      ...(this.#isFrozen ? { isGuestWatched: isWatched } : {}),
      ...(scripts === undefined ? {} : { scripts }),
    };
    return {
      consistency,
      ...(reason === undefined ? {} : { reason }),
      ...(frozenMs === undefined ? {} : { frozenMs, fileSystemsFrozen: this.#count }),
      evidence,
    };
  }
}

async function lookAt(
  place: GuestPlace,
  request: SnapshotRequest,
  signal: AbortSignal | undefined,
): Promise<GuestKnowledge> {
  await using agent = await GuestAgent.open(place.agentSocket, { clock: place.clock, signal });
  return await prepareGuest(agent, request, signal);
}

function planFreeze(guest: GuestKnowledge, request: SnapshotRequest): Omit<FreezePlan, "token"> {
  const { freezeBudgetMs: budgetMs, mayFreezeUnwatched } = request;
  const { scripts, mounts, mountsSkipped } = guest;
  const holdMs = planFreezeTimes(budgetMs).guestResumesAfterMs;
  return {
    budgetMs,
    ...(mounts === undefined || mountsSkipped.length === 0 ? {} : { mountPoints: mounts }),
    ...(mayFreezeUnwatched === undefined ? {} : { mayFreezeUnwatched }),
    ...(scripts.kind === "run" ? { scripts: planRoundOrder(scripts.settings, holdMs) } : {}),
  };
}

/** Leaves the refusal's reason in the guest and gives the error back. */
async function refuse(place: GuestPlace, error: KluisError): Promise<KluisError> {
  await keepNote(place, ["status=refused", `error=${toLine(error.message)}`]);
  return error;
}

/** Leaves in the guest what the backup came to, for who looks there. */
async function keepNote(place: GuestPlace, note: readonly string[]): Promise<void> {
  try {
    await using agent = await GuestAgent.open(place.agentSocket, { clock: place.clock });
    await callExtension(agent, ["note", ...note]);
  } catch (error) {
    // The snapshot is what it is without it, and its record says the same.
    if (!isKluisError(error)) throw error;
  }
}

function toLine(text: string): string {
  return text.replaceAll(/\s+/g, " ").slice(0, 500);
}
