/** Work side by side, at most so much at once, that stops at the first failure. */
export class BoundedWork {
  readonly #most: number;
  readonly #running = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;

  constructor(most: number) {
    this.#most = most;
  }

  /** Starts `work` once there is room for it; throws what made earlier work fail. */
  async start(work: () => Promise<unknown>): Promise<void> {
    while (this.#running.size >= this.#most) await Promise.race(this.#running);
    if (this.#failure !== undefined) throw this.#failure.error;
    const running = this.#run(work).finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /** Resolves when all has ended, whatever became of it. */
  async settle(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Resolves when all has ended; throws the first failure. */
  async end(): Promise<void> {
    await this.settle();
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  async #run(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#failure ??= { error };
    }
  }
}
