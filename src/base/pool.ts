/** A fixed set of reusable things, made when first needed. */
export class Pool<T> {
  readonly #make: () => T;
  #unmade: number;
  readonly #free: T[] = [];
  readonly #waiting: ((item: T) => void)[] = [];

  /** @param options.size How many exist at most. */
  constructor(options: { readonly size: number; readonly make: () => T }) {
    this.#unmade = options.size;
    this.#make = options.make;
  }

  /** Resolves with an item when one is free; the caller gives it back with {@link give}. */
  take(): Promise<T> {
    const item = this.#free.pop();
    if (item !== undefined) return Promise.resolve(item);
    if (this.#unmade > 0) {
      this.#unmade--;
      return Promise.resolve(this.#make());
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Gives an item back, or another in its place. */
  give(item: T): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(item);
    else next(item);
  }
}
