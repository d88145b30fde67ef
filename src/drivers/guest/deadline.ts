/** Waiting with a deadline; internal to this folder. */
import type { Clock } from "#base/clock.ts";

/** How long is waited and what ends the wait. */
export interface Patience {
  readonly timeoutMs: number;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Resolves as `work` does; rejects with `onTimeout()` after the time, or with the signal's reason
 * when it aborts first. `work` goes on then, and its end is not looked at.
 */
export async function withDeadline<T>(
  work: Promise<T>,
  patience: Patience,
  onTimeout: () => Error,
): Promise<T> {
  const { signal } = patience;
  signal?.throwIfAborted();
  const done = new AbortController();
  const ends = signal === undefined ? done.signal : AbortSignal.any([done.signal, signal]);
  const timeout = patience.clock.sleep(patience.timeoutMs, ends).then(
    () => {
      throw onTimeout();
    },
    (error: unknown) => {
      if (signal?.aborted === true) throw signal.reason as Error;
      // The work ended first and stopped the clock.
      throw error;
    },
  );
  try {
    return await Promise.race([work, timeout]);
  } finally {
    done.abort();
    // Whoever lost the race may still reject; the winner has been told.
    timeout.catch(() => undefined);
    work.catch(() => undefined);
  }
}

/** Asks `isDone` every `pollMs` until it answers true; false after the time. */
export async function waitUntil(
  isDone: () => Promise<boolean>,
  patience: Patience & { readonly pollMs: number },
): Promise<boolean> {
  const deadlineMs = patience.clock.monotonicMs() + patience.timeoutMs;
  for (;;) {
    patience.signal?.throwIfAborted();
    if (await isDone()) return true;
    if (patience.clock.monotonicMs() >= deadlineMs) return false;
    await patience.clock.sleep(patience.pollMs, patience.signal);
  }
}
