/** What all disks of one backup share: worker threads, buffers, dedup, sinks, and the order of puts. */
import type { Clock } from "#base/clock.ts";
import { asBuffer } from "#base/bytes.ts";
import type { RandomSource } from "#base/random.ts";
import { Pool } from "#base/pool.ts";
import type { IndexPack } from "#formats/index-segment.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import {
  type FlushLimits,
  flushLimits,
  segmentBufferBytes,
  segmentsPerWorker,
} from "#vault/limits.ts";
import type { WorkerPool } from "#vault/workers/worker-pool.ts";
import { FlushGate } from "#vault/writer/flush-gate.ts";
import { MapSink } from "#vault/writer/map-sink.ts";
import { PackAssembler } from "#vault/writer/pack-assembler.ts";
import { PackSink } from "#vault/writer/pack-sink.ts";

/** What a session needs of its vault. */
export interface SessionDeps {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly index: BlockIndex;
  readonly random: RandomSource;
  readonly clock: Clock;
  /** Worker threads, 1 to `workersMax`. */
  readonly workers: number;
  /** Decrypt, decompress and hash every frame before it is put. */
  readonly verify: boolean;
  /** Gives the session its threads, which it ends; they verify if it does. */
  readonly startPool: () => WorkerPool;
  /** When to make durable what waits; {@link flushLimits} unless told otherwise. */
  readonly flushLimits?: FlushLimits;
  readonly signal: AbortSignal | undefined;
}

/**
 * One backup's way into the store. It fails as a whole: the first error of any part ends all of
 * them, so that nothing is put behind it. Disposing it ends its threads; nothing goes on afterwards.
 */
export class WriteSession implements AsyncDisposable {
  /** Aborts when the caller gives up or a part fails; its reason is what made the session fail. */
  readonly signal: AbortSignal;
  readonly pool: WorkerPool;
  readonly packs: PackAssembler;
  readonly buffers: Pool<ArrayBuffer>;
  readonly gate = new FlushGate();
  readonly sink: PackSink;
  readonly map: MapSink;
  readonly #index: BlockIndex;
  readonly #failure = new AbortController();
  #threadsEnd: Promise<void> | undefined;
  /**
   * Ids that this session stores and that are in no index segment yet. No other session may build
   * on them before they are: this one may never come so far.
   */
  readonly #claimed = new Set<string>();

  constructor(deps: SessionDeps) {
    const failure = this.#failure.signal;
    this.#index = deps.index;
    this.signal = deps.signal === undefined ? failure : AbortSignal.any([deps.signal, failure]);
    const limits = deps.flushLimits ?? flushLimits;
    this.pool = deps.startPool();
    this.sink = new PackSink({
      ...deps,
      nameOf: (bytes) => this.pool.nameOf(bytes),
      entriesMax: limits.entries,
      signal: this.signal,
      onError: (error) => this.fail(error),
      onIndexed: (packs) => this.#forget(packs),
    });
    this.map = new MapSink({ ...deps, sink: this.sink, bytesMax: limits.mapBytes });
    this.packs = new PackAssembler({
      keys: deps.keys,
      random: deps.random,
      signal: this.signal,
      onPack: (pack) => this.sink.accept(pack),
    });
    this.buffers = new Pool({
      size: deps.workers * segmentsPerWorker,
      make: () => new ArrayBuffer(segmentBufferBytes),
    });
  }

  /** Ends the session: what is under way is aborted, and every later step throws the first error. */
  fail(error: unknown): void {
    this.#failure.abort(error);
  }

  /** Runs parts side by side. Resolves or throws when all have ended, the first error with all. */
  async all<T>(parts: readonly (() => Promise<T>)[]): Promise<readonly T[]> {
    const running = parts.map(async (part) => {
      try {
        return await part();
      } catch (error) {
        this.fail(error);
        throw error;
      }
    });
    await Promise.allSettled(running);
    this.signal.throwIfAborted();
    return await Promise.all(running);
  }

  /** Whether a new map may name this block as it is. */
  has(id: Uint8Array): boolean {
    return this.#index.has(id) || this.#claimed.has(asBuffer(id).toString("latin1"));
  }

  /** Whether the caller must store this block: the vault does not have it and nobody claimed it. */
  claim(id: Uint8Array): boolean {
    const name = asBuffer(id).toString("latin1");
    if (this.#claimed.has(name) || this.#index.has(id)) return false;
    this.#claimed.add(name);
    return true;
  }

  /** Flushes if enough waits; no segment may be entered by the caller. */
  async flushIfDue(): Promise<void> {
    this.signal.throwIfAborted();
    if (this.map.isFlushDue) await this.flush();
    else if (this.sink.isSegmentDue) await this.sink.writeSegment();
  }

  /** Makes everything so far durable: packs → index segment → map packs → their index segment. */
  async flush(): Promise<void> {
    await this.gate.alone(async () => {
      this.signal.throwIfAborted();
      await this.packs.flush();
      await this.sink.drain();
      await this.sink.writeSegment();
      this.map.putAll();
      await this.sink.drain();
      await this.sink.writeSegment();
    });
  }

  /** Lets the threads end while the point is committed; nothing may be sealed afterwards. */
  endThreads(): void {
    this.#threadsEnd ??= this.pool[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.endThreads();
    await this.#threadsEnd;
    await this.sink.settle();
  }

  #forget(packs: readonly IndexPack[]): void {
    for (const { entries } of packs) {
      for (const { id } of entries) this.#claimed.delete(asBuffer(id).toString("latin1"));
    }
  }
}
