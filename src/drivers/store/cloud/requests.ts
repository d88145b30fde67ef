/** Sends requests of a store again until they are answered; internal to this folder. */
import type { Clock } from "#base/clock.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { Semaphore } from "#base/semaphore.ts";
import { runAttempt } from "./attempt.ts";
import { RequestFailure, type Attempt, type FailureKind } from "./blob-service.ts";
import { attemptsMax, callTimeMaxMs, planPauseMs, RetryBudget } from "./retry.ts";

/** Requests of one store under way at once. */
export const requestsInFlightMax = 64;

const codes: Readonly<Record<FailureKind, ErrorCode>> = {
  unavailable: "StoreUnavailable",
  missing: "ObjectNotFound",
  "no-store": "StoreNotFound",
  range: "ObjectCorrupt",
  denied: "StoreDenied",
  locked: "ObjectLocked",
  "no-space": "StoreNoSpace",
  argument: "ArgumentInvalid",
  unsupported: "StoreUnsuitable",
};

/** One call of the store's user, from its first attempt to its last. */
export interface Call {
  /** Completes "Cannot …". */
  readonly doing: string;
  readonly signal: AbortSignal | undefined;
  /** When its first attempt began; the wait for a free place before it does not count. */
  startedMs: number | undefined;
  /** Attempts that have failed. */
  failed: number;
}

/** Runs requests with the limits that all calls of a store share. */
export class Requests {
  readonly #clock: Clock;
  readonly #random: RandomSource;
  readonly #slots = new Semaphore(requestsInFlightMax);
  readonly #budget = new RetryBudget();

  constructor(options: { readonly clock: Clock; readonly random: RandomSource }) {
    this.#clock = options.clock;
    this.#random = options.random;
  }

  /** Starts a call; throws the signal's reason where it has aborted already. */
  begin(doing: string, signal: AbortSignal | undefined): Call {
    signal?.throwIfAborted();
    return { doing, signal, startedMs: undefined, failed: 0 };
  }

  /** One attempt; rejects with a {@link RequestFailure}, or with the signal's reason. */
  async once<T>(call: Call, work: (attempt: Attempt) => Promise<T>): Promise<T> {
    await this.#slots.acquire(call.signal);
    call.startedMs ??= this.#clock.monotonicMs();
    try {
      const result = await runAttempt(work, { clock: this.#clock, signal: call.signal });
      this.#budget.earn();
      return result;
    } finally {
      this.#slots.release();
    }
  }

  /** Attempts until one is answered. Errors: those of {@link Requests.toError}. */
  async send<T>(call: Call, work: (attempt: Attempt) => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await this.once(call, work);
      } catch (error) {
        await this.pauseAfter(call, error);
      }
    }
  }

  /** Waits for the next attempt, or throws what the call ends with. */
  async pauseAfter(call: Call, error: unknown): Promise<void> {
    if (!isUnavailable(error)) throw this.toError(call, error);
    call.failed += 1;
    const pauseMs = planPauseMs(call.failed, error.retryAfterMs, this.#random);
    const nowMs = this.#clock.monotonicMs();
    const isLate = nowMs + pauseMs > (call.startedMs ?? nowMs) + callTimeMaxMs;
    if (call.failed >= attemptsMax || isLate || !this.#budget.spend()) {
      throw this.toError(call, error);
    }
    await this.#clock.sleep(pauseMs, call.signal);
  }

  /** What a call that ends with `error` throws: a store error, unless its signal has aborted. */
  toError(call: Call, error: unknown): unknown {
    if (!(error instanceof RequestFailure)) return error;
    const tries = call.failed > 1 ? `, at the last of ${call.failed} attempts` : "";
    return new KluisError(codes[error.kind], `Cannot ${call.doing}: ${error.message}${tries}`);
  }
}

/** Whether a request may be sent again. */
export function isUnavailable(error: unknown): error is RequestFailure {
  return error instanceof RequestFailure && error.kind === "unavailable";
}
