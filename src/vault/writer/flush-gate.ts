/**
 * Lets many segments work at once, or one flush alone.
 *
 * A flush must not run while a segment is between noting a block in the map and storing it, or a
 * map pack could name a block that does not exist yet.
 */
export class FlushGate {
  #inside = 0;
  #flushing = false;
  readonly #waiting: (() => void)[] = [];

  /** Resolves when no flush runs or waits; pair it with {@link leave}. */
  async enter(): Promise<void> {
    while (this.#flushing) await this.#changed();
    this.#inside++;
  }

  /** Ends what {@link enter} began. */
  leave(): void {
    this.#inside--;
    this.#wake();
  }

  /** Runs `work` when all who entered have left; nobody enters meanwhile. */
  async alone(work: () => Promise<void>): Promise<void> {
    while (this.#flushing) await this.#changed();
    this.#flushing = true;
    try {
      while (this.#inside > 0) await this.#changed();
      await work();
    } finally {
      this.#flushing = false;
      this.#wake();
    }
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
