/** A fixed set of reusable things, made when first needed. */
import { assert } from "./assert.ts";

/** Lends things out, never more than there are. Not shared between threads. */
export class Pool<T> {
  readonly #make: () => T;
  #unmade: number;
  #lent = 0;
  readonly #free: T[] = [];
  #waiting: ((item: T) => void)[] = [];

  /** @param options.size How many exist at most. */
  constructor(options: { readonly size: number; readonly make: () => T }) {
    assert(Number.isSafeInteger(options.size) && options.size > 0, "a pool has things to lend");
    this.#unmade = options.size;
    this.#make = options.make;
  }

  /**
   * Resolves with an item when one is free, in the order of calls; the caller gives it back with
   * {@link give}. Rejects with the signal's reason when that aborts first.
   */
  take(signal?: AbortSignal): Promise<T> {
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    if (this.#free.length > 0 || this.#unmade > 0) {
      this.#lent++;
      return Promise.resolve(this.#free.length > 0 ? (this.#free.pop() as T) : this.#makeOne());
    }
    return new Promise((resolve, reject) => {
      const receive = (item: T): void => {
        signal?.removeEventListener("abort", onAbort);
        resolve(item);
      };
      const onAbort = (): void => {
        this.#waiting = this.#waiting.filter((other) => other !== receive);
        reject(signal?.reason as Error);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiting.push(receive);
    });
  }

  /** Gives an item back, or another in its place. */
  give(item: T): void {
    assert(this.#lent > 0, "what is given back was taken");
    const next = this.#waiting.shift();
    if (next !== undefined) {
      next(item);
      return;
    }
    this.#lent--;
    this.#free.push(item);
  }

  #makeOne(): T {
    this.#unmade--;
    return this.#make();
  }
}
