/** Time that runs faster, for what waits for minutes. */
import { systemClock, type Clock } from "#base/clock.ts";

/** A clock whose monotonic time and sleeps run `factor` times as fast as the machine's. */
export function createFastClock(factor: number): Clock {
  return {
    nowMs: () => systemClock.nowMs(),
    monotonicMs: () => systemClock.monotonicMs() * factor,
    sleep: (delayMs, signal) => systemClock.sleep(delayMs / factor, signal),
  };
}
