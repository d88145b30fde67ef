/**
 * The one door for time. Everything that reads a clock or waits takes a {@link Clock}, so that
 * tests can own time.
 */

/** Wall time, monotonic time and waiting. */
export interface Clock {
  /** Wall time in milliseconds since 1970; may jump. Only for what people read. */
  nowMs(): number;
  /** Monotonic milliseconds from an arbitrary start; never goes back. For every deadline. */
  monotonicMs(): number;
  /** Resolves after `delayMs`, or rejects with the signal's reason when it aborts first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
}

/** The machine's clock. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  sleep: (delayMs, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(signal.reason as Error);
        return;
      }
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(signal?.reason as Error);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      }, delayMs);
      signal?.addEventListener("abort", onAbort, { once: true });
    }),
};
