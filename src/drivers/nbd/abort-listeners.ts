/**
 * Tells many requests of an abort by one listener on their signal, because adding and removing one takes
 * as long as sending a request.
 */

/** The requests under one signal. */
interface Group {
  readonly acts: Set<() => void>;
  readonly listener: () => void;
}

/** See the file's head. A signal is listened to only while there are requests under it. */
export class AbortListeners {
  readonly #groups = new Map<AbortSignal, Group>();

  /** Calls `act` when `signal` aborts, unless it is removed before; not where it has aborted already. */
  add(signal: AbortSignal, act: () => void): void {
    let group = this.#groups.get(signal);
    if (group === undefined) {
      const acts = new Set<() => void>();
      group = { acts, listener: () => callAll(acts) };
      signal.addEventListener("abort", group.listener, { once: true });
      this.#groups.set(signal, group);
    }
    group.acts.add(act);
  }

  /** Undoes {@link add}; no-op where there was none. */
  remove(signal: AbortSignal, act: () => void): void {
    const group = this.#groups.get(signal);
    if (group === undefined) return;
    group.acts.delete(act);
    if (group.acts.size > 0) return;
    signal.removeEventListener("abort", group.listener);
    this.#groups.delete(signal);
  }
}

function callAll(acts: Set<() => void>): void {
  const called = [...acts];
  for (const act of called) {
    // One before it may have removed it.
    if (acts.has(act)) act();
  }
}
