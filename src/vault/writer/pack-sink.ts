/** Puts packs, then the index segments that find them; docs/design/vault-format.md §8. */
import type { Clock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import { Semaphore } from "#base/semaphore.ts";
import { encodeIndexSegment, type IndexPack } from "#formats/index-segment.ts";
import { indexSegmentName, mapPackName, packName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { buildContainer } from "#vault/container/build-container.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import { computeName } from "#vault/hashing.ts";
import type { LedgerEntry } from "#vault/inventory/ledger.ts";
import { putInventoryPart, type StoredObject } from "#vault/inventory/inventory.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { putsInFlight } from "#vault/limits.ts";
import type { FinishedPack } from "#vault/writer/pack-assembler.ts";

/** What went into the store in one session. */
export interface SinkTotals {
  objects: number;
  bytes: number;
  packBytes: number;
  mapBytes: number;
  indexBytes: number;
}

/**
 * How long an inventory part of this session is followed by the next without listing all parts. Nobody
 * puts parts together so often meanwhile that a part that is gone would be missed.
 */
const freshPartMs = 10_000;

/** The objects of one session on their way into the store. */
export class PackSink {
  readonly #store: ObjectStore;
  readonly #keys: VaultKeys;
  readonly #index: BlockIndex;
  readonly #nameOf: (bytes: Uint8Array) => Promise<Uint8Array>;
  readonly #random: RandomSource;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #onError: (error: unknown) => void;
  readonly #onIndexed: (packs: readonly IndexPack[]) => void;
  readonly #entriesMax: number;
  readonly #puts = new Semaphore(putsInFlight);
  /** Segments are written one after the other: each ends before what follows it starts. */
  readonly #segments = new Semaphore(1);
  readonly #running = new Set<Promise<void>>();
  #pending: IndexPack[] = [];
  /** Objects that are durable and in no inventory part yet. */
  #untold: StoredObject[] = [];
  /** The parts that were put last, and when. */
  #inventory: readonly LedgerEntry[] = [];
  #inventoryPutMs = -Infinity;
  #pendingEntries = 0;
  readonly totals: SinkTotals = { objects: 0, bytes: 0, packBytes: 0, mapBytes: 0, indexBytes: 0 };

  /**
   * @param options.signal Aborts when the session fails.
   * @param options.onError Told what made the put of a pack fail; aborts the signal.
   * @param options.onIndexed Called with packs once an index segment that names them is durable.
   */
  constructor(options: {
    readonly store: ObjectStore;
    readonly keys: VaultKeys;
    readonly index: BlockIndex;
    readonly random: RandomSource;
    readonly clock: Clock;
    /** Computes the name of a finished pack; in this thread unless told otherwise. */
    readonly nameOf?: (bytes: Uint8Array) => Promise<Uint8Array>;
    /** When {@link PackSink.isSegmentDue}. */
    readonly entriesMax: number;
    readonly signal: AbortSignal;
    readonly onError: (error: unknown) => void;
    readonly onIndexed: (packs: readonly IndexPack[]) => void;
  }) {
    this.#store = options.store;
    this.#keys = options.keys;
    this.#index = options.index;
    this.#nameOf = options.nameOf ?? ((bytes) => Promise.resolve(computeName(bytes)));
    this.#random = options.random;
    this.#clock = options.clock;
    this.#entriesMax = options.entriesMax;
    this.#signal = options.signal;
    this.#onError = options.onError;
    this.#onIndexed = options.onIndexed;
  }

  /** Starts putting a pack. */
  accept(pack: FinishedPack): void {
    const work = this.#putPack(pack)
      .catch(this.#onError)
      .finally(() => {
        pack.release();
        this.#running.delete(work);
      });
    this.#running.add(work);
  }

  /** Whether so many entries wait that a segment should be written. */
  get isSegmentDue(): boolean {
    return this.#pendingEntries >= this.#entriesMax;
  }

  /** Resolves when every accepted pack is durable; throws what made the session fail. */
  async drain(): Promise<void> {
    await this.settle();
    this.#signal.throwIfAborted();
  }

  /** Resolves when no put is under way, whatever became of them. */
  async settle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  /** Names in the inventory what is durable and not in it yet, and `more` with it. */
  async writeInventory(more: readonly StoredObject[] = []): Promise<void> {
    const added = [...this.#untold, ...more];
    this.#untold = [];
    const deps = { store: this.#store, keys: this.#keys, signal: this.#signal };
    const isFresh = this.#clock.monotonicMs() - this.#inventoryPutMs < freshPartMs;
    const after = isFresh ? this.#inventory : undefined;
    const put = await putInventoryPart(deps, { added, after });
    if (put.length > 0) {
      this.#inventory = put;
      this.#inventoryPutMs = this.#clock.monotonicMs();
    }
    for (const { sizeBytes } of put) {
      this.totals.objects++;
      this.totals.bytes += sizeBytes;
    }
  }

  /** Writes an index segment for every pack that is durable and not yet in one. */
  async writeSegment(): Promise<void> {
    await this.#segments.run(async () => {
      this.#signal.throwIfAborted();
      if (this.#pending.length > 0) await this.#writeSegment();
    });
  }

  async #writeSegment(): Promise<void> {
    const packs = this.#pending;
    this.#pending = [];
    this.#pendingEntries = 0;
    const plain = encodeIndexSegment(packs);
    const sealed = buildContainer("indexSegment", plain, {
      keys: this.#keys,
      random: this.#random,
    });
    // First the inventory: a pack that others may build on is missed when it is gone.
    await this.writeInventory();
    const name = indexSegmentName(sealed.name);
    await this.#put(name, sealed.bytes);
    this.#untold.push({ name, sizeBytes: sealed.bytes.byteLength });
    this.totals.indexBytes += sealed.bytes.byteLength;
    await this.#index.addSegment(sealed.name, packs);
    this.#onIndexed(packs);
  }

  async #putPack({ bytes, table: row }: FinishedPack): Promise<void> {
    const table = { ...row, name: await this.#nameOf(bytes) };
    const isData = table.type === "pack";
    const name = isData ? packName(table.name) : mapPackName(table.name);
    await this.#puts.run(() => this.#put(name, bytes));
    this.#untold.push({ name, sizeBytes: bytes.byteLength });
    this.totals[isData ? "packBytes" : "mapBytes"] += bytes.byteLength;
    this.#pending.push(table);
    this.#pendingEntries += table.entries.length;
  }

  async #put(name: string, bytes: Uint8Array): Promise<void> {
    await this.#store.put(name, [bytes], this.#signal);
    this.totals.objects++;
    this.totals.bytes += bytes.byteLength;
  }
}
