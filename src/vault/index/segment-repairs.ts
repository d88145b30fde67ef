/** Rebuilds cached segments that turn out damaged, and remembers those that are lost. */
import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { CacheUnreadable } from "#vault/cache/page-source.ts";
import type { EntryReader, LoadedSegment } from "./entry-reader.ts";
import { repairsPerReadMax, type SegmentLoader } from "./segment-loader.ts";

/** A segment of the store that cannot be read: what it alone names is absent. */
export interface LostSegment {
  readonly name: Uint8Array;
  /** ObjectCorrupt or ObjectNotFound. */
  readonly error: KluisError;
}

/** See the file's head. One repair of a segment runs at a time. */
export class SegmentRepairs {
  readonly #entries: EntryReader;
  readonly #loader: SegmentLoader;
  readonly #signal: AbortSignal | undefined;
  readonly #running = new Map<LoadedSegment, Promise<void>>();
  readonly #lost: LostSegment[] = [];

  constructor(deps: {
    readonly entries: EntryReader;
    readonly loader: SegmentLoader;
    readonly signal: AbortSignal | undefined;
  }) {
    this.#entries = deps.entries;
    this.#loader = deps.loader;
    this.#signal = deps.signal;
  }

  /** Segments that the vault does not give any more. */
  get lost(): readonly LostSegment[] {
    return this.#lost;
  }

  /** The segment that could not be read; throws any other error again. */
  damagedBy(error: unknown): LoadedSegment {
    const segment =
      error instanceof CacheUnreadable
        ? this.#entries.segments.find(({ name }) => toHex(name) === error.segment)
        : undefined;
    if (segment === undefined) throw error;
    return segment;
  }

  /** Rebuilds a segment from the vault, or marks it lost. Errors: those of reading the vault. */
  repair(segment: LoadedSegment): Promise<void> {
    let repair = this.#running.get(segment);
    if (repair === undefined) {
      repair = this.#rebuild(segment).finally(() => {
        this.#running.delete(segment);
      });
      this.#running.set(segment, repair);
    }
    return repair;
  }

  /** Starts or joins {@link repair}; where it fails, the next lookup tries again. */
  start(segment: LoadedSegment): void {
    void Promise.allSettled([this.repair(segment)]);
  }

  /** Reads, after repair where the cache is damaged; `undefined` where the segment is lost. */
  async read<T>(segment: LoadedSegment, read: () => T): Promise<T | undefined> {
    for (let repairs = 0; !isLost(segment); repairs++) {
      try {
        return read();
      } catch (error) {
        if (repairs === repairsPerReadMax) throw error;
        await this.repair(this.damagedBy(error));
      }
    }
    return undefined;
  }

  /** Notes that a segment is lost if `error` says so; throws it again otherwise. */
  lose(name: Uint8Array, error: unknown): void {
    if (!isKluisError(error, "ObjectCorrupt") && !isKluisError(error, "ObjectNotFound"))
      throw error;
    this.#lost.push({ name, error });
    const segment = this.#entries.segments.find((loaded) => bytesEqual(loaded.name, name));
    if (segment !== undefined) segment.state = "lost";
  }

  /** Resolves when no repair runs. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#running.values());
  }

  async #rebuild(segment: LoadedSegment): Promise<void> {
    try {
      await this.#loader.rebuild(segment, this.#signal);
    } catch (error) {
      this.lose(segment.name, error);
    }
  }
}

function isLost(segment: LoadedSegment): boolean {
  return segment.state === "lost";
}
