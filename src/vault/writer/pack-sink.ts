/** Puts packs, then the index segments that find them; docs/design/vault-format.md §8. */
import type { RandomSource } from "#base/random.ts";
import { Semaphore } from "#base/semaphore.ts";
import { encodeIndexSegment, type IndexPack } from "#formats/index-segment.ts";
import { indexSegmentName, mapPackName, packName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { buildContainer } from "#vault/container/build-container.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { pendingEntriesMax, putsInFlight } from "#vault/limits.ts";
import type { FinishedPack } from "#vault/writer/pack-assembler.ts";

/** What went into the store in one session. */
export interface SinkTotals {
  objects: number;
  bytes: number;
  packBytes: number;
  mapBytes: number;
  indexBytes: number;
}

/** The objects of one session on their way into the store. */
export class PackSink {
  readonly #store: ObjectStore;
  readonly #keys: VaultKeys;
  readonly #index: BlockIndex;
  readonly #random: RandomSource;
  readonly #signal: AbortSignal | undefined;
  readonly #puts = new Semaphore(putsInFlight);
  readonly #running = new Set<Promise<void>>();
  #pending: IndexPack[] = [];
  #pendingEntries = 0;
  #error: unknown;
  readonly totals: SinkTotals = { objects: 0, bytes: 0, packBytes: 0, mapBytes: 0, indexBytes: 0 };

  constructor(options: {
    readonly store: ObjectStore;
    readonly keys: VaultKeys;
    readonly index: BlockIndex;
    readonly random: RandomSource;
    readonly signal: AbortSignal | undefined;
  }) {
    this.#store = options.store;
    this.#keys = options.keys;
    this.#index = options.index;
    this.#random = options.random;
    this.#signal = options.signal;
  }

  /** Starts putting a pack. What fails is thrown by {@link drain} or {@link throwIfFailed}. */
  accept(pack: FinishedPack, onDurable: () => void): void {
    const work = this.#putPack(pack)
      .then(onDurable)
      .catch((error: unknown) => {
        this.#error ??= error;
      })
      .finally(() => {
        pack.release();
        this.#running.delete(work);
      });
    this.#running.add(work);
  }

  /** Throws what made an earlier put fail. */
  throwIfFailed(): void {
    if (this.#error !== undefined) throw this.#error;
  }

  /** Whether so many entries wait that a segment should be written. */
  get isSegmentDue(): boolean {
    return this.#pendingEntries >= pendingEntriesMax;
  }

  /** Resolves when every accepted pack is durable. */
  async drain(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
    this.throwIfFailed();
  }

  /** Writes an index segment for every pack that is durable and not yet in one. */
  async writeSegment(): Promise<void> {
    if (this.#pending.length === 0) return;
    const packs = this.#pending;
    this.#pending = [];
    this.#pendingEntries = 0;
    const plain = encodeIndexSegment(packs);
    const sealed = buildContainer("indexSegment", plain, {
      keys: this.#keys,
      random: this.#random,
    });
    await this.#put(indexSegmentName(sealed.name), sealed.bytes);
    this.totals.indexBytes += sealed.bytes.byteLength;
    await this.#index.addSegment(sealed.name, packs);
  }

  async #putPack({ bytes, table }: FinishedPack): Promise<void> {
    const isData = table.type === "pack";
    await this.#puts.run(() =>
      this.#put(isData ? packName(table.name) : mapPackName(table.name), bytes),
    );
    this.totals[isData ? "packBytes" : "mapBytes"] += bytes.byteLength;
    this.#index.addPending(table);
    this.#pending.push(table);
    this.#pendingEntries += table.entries.length;
  }

  async #put(name: string, bytes: Uint8Array): Promise<void> {
    await this.#store.put(name, [bytes], this.#signal);
    this.totals.objects++;
    this.totals.bytes += bytes.byteLength;
  }
}
