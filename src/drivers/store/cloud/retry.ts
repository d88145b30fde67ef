/** When a failed request is sent again; internal to this folder. Numbers: docs/adr/0007-cloud-stores.md. */
import type { RandomSource } from "#base/random.ts";

/** Most attempts of one call. */
export const attemptsMax = 10;
/** Longest time from the start of a call to the start of its last attempt. */
export const callTimeMaxMs = 5 * 60_000;
/** The first pause is at most this long, each further one at most twice the one before. */
export const pauseBaseMs = 100;
/** No pause of our own choice is longer. */
export const pauseMaxMs = 20_000;
/** No pause that the service asked for is longer. */
export const retryAfterMaxMs = 60_000;
/** Retries that all calls of a store have at once. */
export const budgetRetriesMax = 500;
/** What a request that succeeds gives back. */
export const budgetEarned = 0.5;

/**
 * How long to wait after the failed attempt number `attempt` (from 1): full jitter, and never
 * shorter than what the service asked for.
 */
export function planPauseMs(
  attempt: number,
  retryAfterMs: number | undefined,
  random: RandomSource,
): number {
  const most = Math.min(pauseMaxMs, pauseBaseMs * 2 ** Math.min(attempt - 1, 30));
  const jittered = most * fractionOf(random);
  const asked = Math.min(retryAfterMs ?? 0, retryAfterMaxMs);
  return asked === 0 ? jittered : asked + Math.min(jittered, pauseBaseMs);
}

/** The retries that the calls of one store share: a store that is down gets fewer and fewer. */
export class RetryBudget {
  #left = budgetRetriesMax;

  /** Whether there was a retry left; it is spent. */
  spend(): boolean {
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }

  /** A request succeeded. */
  earn(): void {
    this.#left = Math.min(budgetRetriesMax, this.#left + budgetEarned);
  }
}

/** From 0 up to, not including, 1. */
function fractionOf(random: RandomSource): number {
  const bytes = random.bytes(4);
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0) / 2 ** 32;
}
