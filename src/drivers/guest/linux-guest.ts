/** A guest that is quiesced by its pre and post scripts and frozen under a watchdog of its own. */
import { isKluisError, toKluisError, type KluisError } from "#base/kluis-error.ts";
import type { ScriptRun, SnapshotRequest } from "#ports/hypervisor.ts";
import { callExtension } from "./extension/extension.ts";
import type { FreezeRound } from "./freeze-round.ts";
import { planFreezeTimes, type FreezePlan } from "./guard-wire.ts";
import type { BackupNote, FreezeWish, GuestSystem, GuestVerdict } from "./guest-system.ts";
import type { GuestAgent } from "./guest-agent.ts";
import { prepareGuest, type GuestKnowledge } from "./prepare-guest.ts";
import {
  decideConsistency,
  refusalAfter,
  refusalBefore,
  toRefusalError,
  type FreezeOutcome,
  type ScriptResults,
} from "./scripts/decide-consistency.ts";
import { planRoundOrder, type ScriptReport } from "./scripts/run-scripts.ts";

const unknownRun: ScriptRun = { outcome: "unknown", tries: 0, durationMs: 0 };

/** See above, and GuestSystem. */
export class LinuxGuest implements GuestSystem {
  readonly freeze: FreezeWish;
  readonly refusal?: KluisError;
  readonly mounts?: readonly string[];
  readonly mountsSkipped: readonly string[];
  readonly #request: SnapshotRequest;
  readonly #guest: GuestKnowledge;
  #pre: ScriptReport | undefined;
  #wasQuiesced = false;

  private constructor(guest: GuestKnowledge, request: SnapshotRequest) {
    this.#guest = guest;
    this.#request = request;
    const { scripts, mounts, mountsSkipped } = guest;
    if (mounts !== undefined) this.mounts = mounts;
    this.mountsSkipped = mountsSkipped;
    const isOff = scripts.kind === "run" && !scripts.settings.fsFreezeEnabled;
    this.freeze = { kind: isOff ? "off" : "freeze", plan: planFreeze(guest, request) };
    const refusal = refusalBefore(scripts);
    if (refusal !== undefined) this.refusal = toRefusalError(refusal);
  }

  /** Looks at the guest, and puts the extension there where that is needed. Errors: AgentUnavailable. */
  static async open(
    agent: GuestAgent,
    request: SnapshotRequest,
    signal: AbortSignal | undefined,
  ): Promise<LinuxGuest> {
    return new LinuxGuest(await prepareGuest(agent, request, signal), request);
  }

  /** Runs the pre script where there is one; post has been run where this raises GuestScriptFailed. */
  async quiesce(round: FreezeRound, signal: AbortSignal | undefined): Promise<string | undefined> {
    const { scripts } = this.#guest;
    if (scripts.kind !== "run") return undefined;
    this.#wasQuiesced = true;
    let reason: string | undefined;
    try {
      this.#pre = await round.quiesce(signal);
      await round.arm(signal);
    } catch (error) {
      signal?.throwIfAborted();
      if (!isKluisError(error)) throw error;
      reason = error.message;
    }
    const refusal = refusalAfter(scripts.settings, "pre", this.#pre?.run ?? unknownRun);
    if (refusal === undefined) return reason;
    await this.#resume(round);
    throw toRefusalError(refusal);
  }

  async conclude(freeze: FreezeOutcome, round: FreezeRound | undefined): Promise<GuestVerdict> {
    const isResumed = round !== undefined && this.#wasQuiesced;
    const results = isResumed ? await this.#resume(round) : undefined;
    const { scripts } = this.#guest;
    // Where there was no round, nothing was run, whatever had been planned.
    const wasRun = results !== undefined || scripts.kind !== "run";
    const verdict = decideConsistency({
      requested: this.#request.consistency,
      scripts: wasRun ? scripts : { kind: "unknown", reason: "the guest could not be prepared" },
      freeze,
      ...(results === undefined ? {} : { results }),
    });
    const { consistency, reason, refusal } = verdict;
    return {
      consistency,
      ...(reason === undefined ? {} : { reason }),
      evidence: verdict.scripts === undefined ? {} : { scripts: verdict.scripts },
      ...(refusal === undefined ? {} : { refusal: toRefusalError(refusal) }),
    };
  }

  async keepNote(agent: GuestAgent, note: BackupNote): Promise<void> {
    await callExtension(agent, ["note", `status=${note.status}`, `error=${note.error}`]);
  }

  async #resume(round: FreezeRound): Promise<ScriptResults> {
    const pre = this.#pre;
    const results = { pre: pre?.run ?? unknownRun };
    try {
      const { report, selfReason } = await round.resume();
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
}

function planFreeze(guest: GuestKnowledge, request: SnapshotRequest): Omit<FreezePlan, "token"> {
  const { freezeBudgetMs: budgetMs, mayFreezeUnwatched } = request;
  const { scripts, mounts, mountsSkipped } = guest;
  const holdMs = planFreezeTimes({ budgetMs }).guestResumesAfterMs;
  return {
    budgetMs,
    ...(mounts === undefined || mountsSkipped.length === 0 ? {} : { mountPoints: mounts }),
    ...(mayFreezeUnwatched === undefined ? {} : { mayFreezeUnwatched }),
    ...(scripts.kind === "run" ? { scripts: planRoundOrder(scripts.settings, holdMs) } : {}),
  };
}
