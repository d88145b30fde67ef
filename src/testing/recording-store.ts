/**
 * A store that remembers every change with its content, so that a test can rebuild what a crash at
 * any moment would have left: docs/design/vault-format.md §8 is proved by cutting this log.
 */
import { concatBytes } from "#base/bytes.ts";
import { present } from "#base/assert.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ByteRange, ObjectInfo, ObjectStore, PutOutcome } from "#ports/object-store.ts";

/** One put or remove. */
export interface RecordedChange {
  /** From 0, in the order the calls began. */
  readonly index: number;
  readonly kind: "put" | "remove";
  readonly name: string;
  /** A copy of what was put; `undefined` for a remove. */
  readonly content: Uint8Array | undefined;
}

/** One moment of the log: a change began, or its call returned (`failed`: threw). */
export interface RecordedEvent {
  readonly moment: "began" | "returned" | "failed";
  readonly change: RecordedChange;
}

/** How often reading calls were made and what they brought. */
export interface ReadCounts {
  gets: number;
  getBytes: number;
  stats: number;
  lists: number;
}

/** Which changes under way at a crash took effect all the same; by default none. */
export type SurvivorRule = (change: RecordedChange) => boolean;

/** Records every change made through it; passes all calls on. */
export class RecordingStore implements ObjectStore {
  readonly reads: ReadCounts = { gets: 0, getBytes: 0, stats: 0, lists: 0 };
  readonly #inner: ObjectStore;
  readonly #events: RecordedEvent[] = [];
  readonly #initial = new Map<string, Uint8Array>();
  #changes = 0;

  private constructor(inner: ObjectStore) {
    this.#inner = inner;
  }

  /** Wraps `inner`; what it holds already is part of every rebuilt store. */
  static async open(inner: ObjectStore = createMemoryStore()): Promise<RecordingStore> {
    const store = new RecordingStore(inner);
    for await (const { name } of inner.list("")) store.#initial.set(name, await inner.get(name));
    return store;
  }

  get location(): string {
    return this.#inner.location;
  }

  /** The log. A cut is a number from 0 to its length: the crash comes before event `cut`. */
  get events(): readonly RecordedEvent[] {
    return this.#events;
  }

  /**
   * The store after a crash at `cut`. A change whose call had returned is there; one that failed or
   * was under way is there if `survives` says so, as a real crash may have it either way.
   */
  rebuild(cut: number, survives: SurvivorRule = () => false): ObjectStore {
    const objects = new Map(this.#initial);
    for (const change of this.#effective(cut, survives)) {
      if (change.kind === "remove") objects.delete(change.name);
      else if (!objects.has(change.name)) {
        objects.set(change.name, present(change.content, "a put has content"));
      }
    }
    return createMemoryStore(objects);
  }

  async put(name: string, parts: readonly Uint8Array[], signal?: AbortSignal): Promise<PutOutcome> {
    return this.#record({ kind: "put", name, content: concatBytes(parts) }, () =>
      this.#inner.put(name, parts, signal),
    );
  }

  async get(name: string, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    this.reads.gets++;
    const bytes = await this.#inner.get(name, range, signal);
    this.reads.getBytes += bytes.byteLength;
    return bytes;
  }

  async stat(name: string, signal?: AbortSignal): Promise<ObjectInfo | undefined> {
    this.reads.stats++;
    return this.#inner.stat(name, signal);
  }

  list(prefix: string, signal?: AbortSignal): AsyncIterable<ObjectInfo> {
    this.reads.lists++;
    return this.#inner.list(prefix, signal);
  }

  async remove(name: string, signal?: AbortSignal): Promise<void> {
    return this.#record({ kind: "remove", name, content: undefined }, () =>
      this.#inner.remove(name, signal),
    );
  }

  async probe(signal?: AbortSignal): Promise<void> {
    return this.#inner.probe(signal);
  }

  async #record<T>(what: Omit<RecordedChange, "index">, apply: () => Promise<T>): Promise<T> {
    const change = { index: this.#changes++, ...what };
    this.#events.push({ moment: "began", change });
    try {
      const result = await apply();
      this.#events.push({ moment: "returned", change });
      return result;
    } catch (error) {
      this.#events.push({ moment: "failed", change });
      throw error;
    }
  }

  /** Changes that took effect before `cut`, in the order in which they did. */
  #effective(cut: number, survives: SurvivorRule): RecordedChange[] {
    const before = this.#events.slice(0, cut);
    const returned = new Set<RecordedChange>();
    for (const event of before) if (event.moment === "returned") returned.add(event.change);
    const effective: RecordedChange[] = [];
    for (const { moment, change } of before) {
      // A change takes effect at its return where there is one, else at the latest at the crash.
      if (moment === "returned") effective.push(change);
      else if (moment === "began" && !returned.has(change) && survives(change)) {
        effective.push(change);
      }
    }
    return effective;
  }
}
