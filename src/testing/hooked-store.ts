/** A store that calls back before every call that it passes on. */
import type { ByteRange, ObjectInfo, ObjectStore, PutOutcome } from "#ports/object-store.ts";

/** Passes calls on to `inner`, each after `hook` has ended. */
export class HookedStore implements ObjectStore {
  readonly #inner: ObjectStore;
  #hook: () => Promise<void>;

  constructor(inner: ObjectStore, hook: () => Promise<void> = () => Promise.resolve()) {
    this.#inner = inner;
    this.#hook = hook;
  }

  /** Sets what is done before every further call. */
  set hook(hook: () => Promise<void>) {
    this.#hook = hook;
  }

  get location(): string {
    return this.#inner.location;
  }

  async put(name: string, parts: readonly Uint8Array[], signal?: AbortSignal): Promise<PutOutcome> {
    await this.#hook();
    return await this.#inner.put(name, parts, signal);
  }

  async get(name: string, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    await this.#hook();
    return await this.#inner.get(name, range, signal);
  }

  async stat(name: string, signal?: AbortSignal): Promise<ObjectInfo | undefined> {
    await this.#hook();
    return await this.#inner.stat(name, signal);
  }

  /** A listing is no snapshot: the hook comes before every object of it as well. */
  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<ObjectInfo> {
    await this.#hook();
    for await (const info of this.#inner.list(prefix, signal)) {
      yield info;
      await this.#hook();
    }
  }

  async remove(name: string, signal?: AbortSignal): Promise<void> {
    await this.#hook();
    await this.#inner.remove(name, signal);
  }

  async probe(signal?: AbortSignal): Promise<void> {
    await this.#hook();
    await this.#inner.probe(signal);
  }
}
