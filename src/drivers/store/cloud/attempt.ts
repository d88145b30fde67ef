/** Runs one attempt of a request and ends it when nothing moves; internal to this folder. */
import type { Clock } from "#base/clock.ts";
import { untilAborted } from "#base/until-aborted.ts";
import { RequestFailure, type Attempt } from "./blob-service.ts";

/** Longest time in which no byte moves in either direction. */
export const stallMaxMs = 30_000;

/**
 * Runs `work` and rejects with a failure `unavailable` when it calls `onProgress` for too long not;
 * with the reason of `signal` when that aborts. Does not wait for work that ignores its signal.
 */
export async function runAttempt<T>(
  work: (attempt: Attempt) => Promise<T>,
  options: { readonly clock: Clock; readonly signal: AbortSignal | undefined },
): Promise<T> {
  const { clock, signal } = options;
  const stalled = new AbortController();
  const ended = new AbortController();
  let movedMs = clock.monotonicMs();
  const watch = async (): Promise<void> => {
    for (;;) {
      const leftMs = movedMs + stallMaxMs - clock.monotonicMs();
      if (leftMs <= 0) break;
      await clock.sleep(leftMs, ended.signal);
    }
    const seconds = stallMaxMs / 1000;
    stalled.abort(new RequestFailure("unavailable", `nothing moved for ${seconds} s`));
  };
  // Rejects only when the attempt has ended, and then nobody waits for it.
  void watch().catch(() => undefined);
  const both = signal === undefined ? stalled.signal : AbortSignal.any([signal, stalled.signal]);
  const onProgress = (): void => {
    movedMs = clock.monotonicMs();
  };
  try {
    return await untilAborted(work({ signal: both, onProgress }), both);
  } catch (error) {
    // What a library makes of an abort says nothing; the reason does.
    if (both.aborted) throw both.reason;
    throw error;
  } finally {
    ended.abort();
  }
}
