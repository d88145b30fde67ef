/** Time that a test owns: it stands still until it is told to advance. */
import { assert } from "#base/assert.ts";
import type { Clock } from "#base/clock.ts";

interface Sleeper {
  readonly dueMs: number;
  readonly wake: () => void;
}

/** A {@link Clock} moved by hand. */
export class ManualClock implements Clock {
  #monotonicMs = 0;
  #wallOffsetMs: number;
  readonly #sleepers = new Set<Sleeper>();

  /** @param nowMs Wall time at the start. */
  constructor(nowMs: number = Date.UTC(2026, 0, 1)) {
    this.#wallOffsetMs = nowMs;
  }

  nowMs(): number {
    return this.#wallOffsetMs + this.#monotonicMs;
  }

  monotonicMs(): number {
    return this.#monotonicMs;
  }

  /** How many sleeps are under way. */
  get sleeping(): number {
    return this.#sleepers.size;
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(signal.reason as Error);
        return;
      }
      const sleeper: Sleeper = {
        dueMs: this.#monotonicMs + Math.max(0, delayMs),
        wake: () => {
          this.#sleepers.delete(sleeper);
          signal?.removeEventListener("abort", onAbort);
          resolve();
        },
      };
      const onAbort = (): void => {
        this.#sleepers.delete(sleeper);
        reject(signal?.reason as Error);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#sleepers.add(sleeper);
    });
  }

  /**
   * Moves time on by `durationMs` and wakes who is due, in order of time. After each the pending
   * microtasks and I/O callbacks run, so that who wakes up may sleep again within the same advance.
   */
  async advance(durationMs: number): Promise<void> {
    assert(durationMs >= 0, "time does not go back");
    const endMs = this.#monotonicMs + durationMs;
    await settle();
    for (let due = this.#nextDue(endMs); due !== undefined; due = this.#nextDue(endMs)) {
      this.#monotonicMs = Math.max(this.#monotonicMs, due.dueMs);
      due.wake();
      await settle();
    }
    this.#monotonicMs = endMs;
  }

  /** Sets wall time, as an administrator or NTP does; monotonic time does not notice. */
  jump(nowMs: number): void {
    this.#wallOffsetMs = nowMs - this.#monotonicMs;
  }

  #nextDue(endMs: number): Sleeper | undefined {
    let first: Sleeper | undefined;
    for (const sleeper of this.#sleepers) {
      if (sleeper.dueMs <= endMs && (first === undefined || sleeper.dueMs < first.dueMs)) {
        first = sleeper;
      }
    }
    return first;
  }
}

/** Lets everything run that can without time passing. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
}
