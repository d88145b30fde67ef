/** Signs of life of a session: an object with the time in its name, every ten minutes. */
import type { Clock } from "#base/clock.ts";
import { beatName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { beatMs } from "#vault/limits.ts";

const content = new Uint8Array([1]);

/** Beats from its making to its disposal. A beat that fails is not missed: many go by unheard. */
export class Heartbeat implements AsyncDisposable {
  readonly #stopped = new AbortController();
  readonly #beating: Promise<void>;

  constructor(session: string, deps: { readonly store: ObjectStore; readonly clock: Clock }) {
    this.#beating = this.#beat(session, deps);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped.abort();
    await this.#beating;
  }

  async #beat(
    session: string,
    deps: { readonly store: ObjectStore; readonly clock: Clock },
  ): Promise<void> {
    const { signal } = this.#stopped;
    while (!signal.aborted) {
      const name = beatName(session, deps.clock.nowMs());
      await Promise.allSettled([deps.store.put(name, [content], signal)]);
      await Promise.allSettled([deps.clock.sleep(beatMs, signal)]);
    }
  }
}
