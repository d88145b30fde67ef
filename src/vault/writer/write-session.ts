/** What all disks of one backup share: worker threads, buffers, dedup, sinks, and the order of puts. */
import { asBuffer } from "#base/bytes.ts";
import type { RandomSource } from "#base/random.ts";
import { Pool } from "#base/pool.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { segmentBufferBytes, segmentsPerWorker } from "#vault/limits.ts";
import { WorkerPool } from "#vault/workers/worker-pool.ts";
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
  /** Worker threads, 1 to `workersMax`. */
  readonly workers: number;
  /** Decrypt, decompress and hash every frame before it is put. */
  readonly verify: boolean;
  readonly signal: AbortSignal | undefined;
}

/** One backup's way into the store; disposing it ends its threads. */
export class WriteSession implements AsyncDisposable {
  readonly pool: WorkerPool;
  readonly packs: PackAssembler;
  readonly buffers: Pool<ArrayBuffer>;
  readonly gate = new FlushGate();
  readonly sink: PackSink;
  readonly map: MapSink;
  readonly #index: BlockIndex;
  /** Ids that are on their way into a pack; bounded by `packBuffers`. */
  readonly #claimed = new Set<string>();

  constructor(deps: SessionDeps) {
    this.#index = deps.index;
    this.sink = new PackSink(deps);
    this.map = new MapSink({ ...deps, sink: this.sink });
    this.pool = new WorkerPool({
      start: { keys: deps.keys, verify: deps.verify },
      size: deps.workers,
    });
    this.packs = new PackAssembler({
      keys: deps.keys,
      random: deps.random,
      onPack: (pack) => this.sink.accept(pack, () => this.#forget(pack.table.entries)),
    });
    this.buffers = new Pool({
      size: deps.workers * segmentsPerWorker,
      make: () => new ArrayBuffer(segmentBufferBytes),
    });
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
    this.sink.throwIfFailed();
    if (this.map.isFlushDue) await this.flush();
    else if (this.sink.isSegmentDue) await this.sink.writeSegment();
  }

  /** Makes everything so far durable: packs → index segment → map packs → their index segment. */
  async flush(): Promise<void> {
    await this.gate.alone(async () => {
      await this.packs.flush();
      await this.sink.drain();
      await this.sink.writeSegment();
      this.map.putAll();
      await this.sink.drain();
      await this.sink.writeSegment();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pool[Symbol.asyncDispose]();
  }

  #forget(entries: readonly { readonly id: Uint8Array }[]): void {
    for (const { id } of entries) this.#claimed.delete(asBuffer(id).toString("latin1"));
  }
}
