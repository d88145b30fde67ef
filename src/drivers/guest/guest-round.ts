import { isKluisError } from "#base/kluis-error.ts";
import type { ConsistencyRecord, SnapshotRequest } from "#ports/hypervisor.ts";
import { FreezeRound, type FreezeRoundOptions } from "./freeze-round.ts";

/** The guest's part in a snapshot: frozen where that was asked and works, else the reason why not. */
export class GuestRound implements AsyncDisposable {
  readonly #round: FreezeRound | undefined;
  #reason: string | undefined;
  #count = 0;
  #isFrozen = false;

  private constructor(round: FreezeRound | undefined, reason: string | undefined) {
    this.#round = round;
    this.#reason = reason;
  }

  /** Never fails for want of a guest agent; that is a reason. */
  static async open(
    guest: Omit<FreezeRoundOptions, "budgetMs">,
    request: SnapshotRequest,
    signal: AbortSignal | undefined,
  ): Promise<GuestRound> {
    if (request.consistency === "crash") {
      return new GuestRound(undefined, "a crash-consistent snapshot was asked for");
    }
    const options = { ...guest, budgetMs: request.freezeBudgetMs };
    try {
      return new GuestRound(await FreezeRound.open(options, signal), undefined);
    } catch (error) {
      signal?.throwIfAborted();
      if (!isKluisError(error)) throw error;
      return new GuestRound(undefined, error.message);
    }
  }

  async freeze(): Promise<void> {
    if (this.#round === undefined) return;
    try {
      this.#count = await this.#round.freeze(undefined);
      this.#isFrozen = true;
    } catch (error) {
      if (!isKluisError(error)) throw error;
      this.#reason = error.message;
    }
  }

  /** Thaws and says what the snapshot is worth. */
  async thaw(): Promise<ConsistencyRecord> {
    if (this.#round === undefined || !this.#isFrozen) {
      return { consistency: "crash", ...this.#withReason(this.#reason) };
    }
    const report = await this.#round.thaw();
    const frozenMs = Math.round(report.frozenMs);
    const figures = { frozenMs, fileSystemsFrozen: this.#count };
    const reason = this.#count === 0 ? "the guest froze no file system" : report.reason;
    if (reason !== undefined) return { consistency: "crash", reason, ...figures };
    return { consistency: "file-system", ...figures };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#round?.[Symbol.asyncDispose]();
  }

  #withReason(reason: string | undefined): { readonly reason?: string } {
    return reason === undefined ? {} : { reason };
  }
}
