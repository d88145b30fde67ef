import { isKluisError } from "#base/kluis-error.ts";
import type { ConsistencyEvidence, ConsistencyRecord, SnapshotRequest } from "#ports/hypervisor.ts";
import { openGuestSystem } from "./open-guest-system.ts";
import { FreezeRound } from "./freeze-round.ts";
import { GuestAgent } from "./guest-agent.ts";
import type { BackupNote, GuestPlace, GuestSystem, GuestVerdict } from "./guest-system.ts";
import { decideConsistency, type FreezeOutcome } from "./scripts/decide-consistency.ts";

/** What may be done to the guest, or why it may not. */
type Means =
  | { readonly round: FreezeRound; readonly system: GuestSystem }
  | { readonly reason: string; readonly system?: GuestSystem };

/**
 * The guest's part in a snapshot: quiesced and frozen where that was asked and works, else the reason
 * why not. Order: open, quiesce, freeze, (the instant), thaw, dispose. Calls do not overlap. Disposing
 * lets the guest go on, whatever happened.
 */
export class GuestRound implements AsyncDisposable {
  readonly #place: GuestPlace;
  readonly #request: SnapshotRequest;
  readonly #means: Means;
  #reason: string | undefined;
  #count = 0;
  #isFrozen = false;
  #note: BackupNote | undefined;

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
    let system: GuestSystem | undefined;
    try {
      system = await openGuestSystem(place, request, signal);
      const { freeze, refusal } = system;
      if (refusal !== undefined) {
        await keepNote(place, system, { status: "refused", error: toLine(refusal.message) });
        throw refusal;
      }
      if (freeze.kind === "not") return new GuestRound(place, request, { ...freeze, system });
      const round = await FreezeRound.open({ ...place, plan: freeze.plan }, signal);
      return new GuestRound(place, request, { round, system });
    } catch (error) {
      signal?.throwIfAborted();
      if (!isKluisError(error) || error.code === "GuestScriptFailed") throw error;
      const known = system === undefined ? {} : { system };
      return new GuestRound(place, request, { reason: error.message, ...known });
    }
  }

  /**
   * Runs the pre script where there is one. Errors: GuestScriptFailed (after-change) where it failed
   * and the backup may not go on; post has been run then.
   */
  async quiesce(signal: AbortSignal | undefined): Promise<void> {
    const means = this.#means;
    if (!("round" in means)) return;
    try {
      this.#reason = await means.system.quiesce(means.round, signal);
    } catch (error) {
      if (isKluisError(error, "GuestScriptFailed")) {
        this.#note = { status: "refused", error: toLine(error.message) };
      }
      throw error;
    }
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
   * Thaws, has the guest's applications go on, and says what the snapshot is worth. Errors:
   * GuestScriptFailed (after-change) where the guest's configuration forbids to keep the snapshot.
   */
  async thaw(): Promise<ConsistencyRecord> {
    const means = this.#means;
    const round = "round" in means ? means.round : undefined;
    const { freeze, frozenMs } = await this.#letGo();
    const verdict = await this.#conclude(freeze, round);
    const { consistency, reason, refusal } = verdict;
    if (round !== undefined || means.system?.freeze.kind === "not") {
      const status = refusal === undefined ? consistency : "refused";
      this.#note = { status, error: toLine(refusal?.message ?? reason ?? "") };
    }
    if (refusal !== undefined) throw refusal;
    return this.#record(verdict, frozenMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { system } = this.#means;
    if ("round" in this.#means) await this.#means.round[Symbol.asyncDispose]();
    if (this.#note !== undefined && system !== undefined) {
      await keepNote(this.#place, system, this.#note);
    }
  }

  #isFreezeOff(): boolean {
    return this.#means.system?.freeze.kind === "off";
  }

  async #letGo(): Promise<{ readonly freeze: FreezeOutcome; readonly frozenMs?: number }> {
    const means = this.#means;
    if (!("round" in means)) return { freeze: { kind: "void", reason: means.reason } };
    if (this.#isFrozen) {
      const report = await means.round.thaw();
      const reason = this.#count === 0 ? "the guest froze no file system" : report.reason;
      const frozenMs = Math.round(report.frozenMs);
      return {
        freeze: reason === undefined ? { kind: "counts" } : { kind: "void", reason },
        frozenMs,
      };
    }
    if (this.#isFreezeOff() && this.#reason === undefined) return { freeze: { kind: "off" } };
    return { freeze: { kind: "void", reason: this.#reason ?? "the guest was not frozen" } };
  }

  async #conclude(freeze: FreezeOutcome, round: FreezeRound | undefined): Promise<GuestVerdict> {
    const { system } = this.#means;
    if (system !== undefined) return await system.conclude(freeze, round);
    const requested = this.#request.consistency;
    const { consistency, reason } = decideConsistency({
      requested,
      scripts: { kind: "unasked" },
      freeze,
    });
    return { consistency, ...(reason === undefined ? {} : { reason }), evidence: {} };
  }

  #record(verdict: GuestVerdict, frozenMs?: number): ConsistencyRecord {
    const { consistency, reason } = verdict;
    const { system } = this.#means;
    const isWatched = "round" in this.#means && !this.#means.round.isUnwatched;
    const mounts = system?.mounts;
    const isKeptByVss = system?.freeze.kind === "freeze" && system.freeze.plan.keeper === "vss";
    const evidence: ConsistencyEvidence = {
      requested: this.#request.consistency,
      ...(mounts !== undefined && mounts.length === this.#count ? { mountsFrozen: mounts } : {}),
      ...(system === undefined || system.mountsSkipped.length === 0
        ? {}
        : { mountsSkipped: system.mountsSkipped }),
      ...(this.#isFrozen && !isKeptByVss ? { isGuestWatched: isWatched } : {}),
      ...verdict.evidence,
    };
    return {
      consistency,
      ...(reason === undefined ? {} : { reason }),
      ...(frozenMs === undefined ? {} : { frozenMs, fileSystemsFrozen: this.#count }),
      evidence,
    };
  }
}

/** Leaves in the guest what the backup came to, for who looks there. */
async function keepNote(place: GuestPlace, system: GuestSystem, note: BackupNote): Promise<void> {
  try {
    await using agent = await GuestAgent.open(place.agentSocket, { clock: place.clock });
    await system.keepNote(agent, note);
  } catch (error) {
    // The snapshot is what it is without it, and its record says the same.
    if (!isKluisError(error)) throw error;
  }
}

function toLine(text: string): string {
  return text.replaceAll(/\s+/g, " ").slice(0, 500);
}
