/**
 * The index of a vault on this host: where each block and node lies.
 *
 * A table in memory finds candidates by 36 bits of the id; the full entry is read from the local
 * cache and counts only if all 24 bytes agree. What the cache lacks, or holds damaged, is read
 * again from the vault. Reasons and figures: docs/adr/0004-block-index.md.
 */
import { assert } from "#base/assert.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom, type RandomSource } from "#base/random.ts";
import { Semaphore } from "#base/semaphore.ts";
import { fromIndexColumns, type IndexPack, toIndexColumns } from "#formats/index-segment.ts";
import { PageCache } from "#vault/cache/page-cache.ts";
import { SegmentCache } from "#vault/cache/segment-cache.ts";
import { SnapshotReader, writeSnapshot } from "#vault/cache/snapshot-file.ts";
import { DistrustedPacks, type SegmentRead } from "./distrusted-packs.ts";
import {
  type BlockLocation,
  EntryReader,
  type LoadedSegment,
  type PackExtent,
} from "./entry-reader.ts";
import { IdTable } from "./id-table.ts";
import { repairsPerReadMax, SegmentLoader, type SegmentReader } from "./segment-loader.ts";
import { type LostSegment, SegmentRepairs } from "./segment-repairs.ts";
import { decodeSnapshot, encodeSnapshot, type TableSnapshot } from "./table-snapshot.ts";

/** What an index is opened with. */
export interface IndexOptions {
  /** Names of all index segments of the store, 32 bytes each. */
  readonly segmentNames: Iterable<Uint8Array>;
  readonly readSegment: SegmentReader;
  /** This host's folder for this vault; without one, segments live for this process only. */
  readonly cacheDirectory?: string;
  /** Where to keep segments if that folder cannot be used; without one, in memory. */
  readonly temporaryDirectory?: string;
  /** Most memory that the index may take; by default {@link indexMemoryBytesMax}. */
  readonly memoryBytesMax?: number;
  /** Memory for pages of the cache; by default 16 MiB. */
  readonly pageCacheBytes?: number;
  readonly random?: RandomSource;
  readonly clock?: Clock;
  readonly signal?: AbortSignal;
}

/**
 * Why a pack is not to be built on: it is absent, short or was found damaged, it is about to be
 * removed, or this process has failed to read it.
 */
export type Distrust = "defect" | "condemned" | "unread";

/** What an index holds and takes. */
export interface IndexStatistics {
  readonly segments: number;
  /** Entries of all segments; an id may have several. */
  readonly entries: number;
  /** Table, pages, and segments that have no file. */
  readonly memoryBytes: number;
  readonly tableBytes: number;
  /** Of segments that have no file, because no folder can be used. */
  readonly segmentBytes: number;
  readonly pageReads: number;
  /** Entries whose 36 bits agreed and whose id did not. */
  readonly strangers: number;
  /** Segments that were read from the vault in this run. */
  readonly rebuiltSegments: number;
  /** Why the cache folder is not used, or could not be written. */
  readonly cacheProblem: string | undefined;
}

/** Enough for 30 TiB of unique windows. */
export const indexMemoryBytesMax = 1024 * 1024 * 1024;

const pageCacheBytes = 16 * 1024 * 1024;
/** What the objects of a segment take (name, path, layout), about. */
const segmentObjectBytes = 1024;
/** Segments that are read from the vault at the same time. */
const readsAtOnce = 4;
/** A snapshot is written when the last lacks so many entries that are also this share, or so many segments. */
const snapshotEntries = 2048;
const snapshotShare = 1 / 32;
const snapshotSegments = 64;

/**
 * Opens the index of a vault: loads what the local cache holds of `segmentNames`, and reads the
 * rest from the vault.
 *
 * Segments that are damaged or gone are left out and told by {@link BlockIndex.lost}. Errors:
 * ConfigInvalid (after-change) where the index needs more memory than it may take; those of the
 * store, KeyWrong.
 */
export async function openIndex(options: IndexOptions): Promise<BlockIndex> {
  const cache = SegmentCache.open({
    cacheDirectory: options.cacheDirectory,
    temporaryDirectory: options.temporaryDirectory,
    random: options.random ?? systemRandom,
  });
  const names = new Map<string, Uint8Array>();
  for (const name of options.segmentNames) names.set(toHex(name), name);
  const snapshot = readSnapshot(cache, (name) => names.has(toHex(name)));
  const isKnown = snapshot !== undefined || [...names.values()].some((name) => cache.find(name));
  const index = new BlockIndex(options, cache, snapshot);
  try {
    await index.refresh(names.values(), options.signal);
    await index.save();
    const nowMs = (options.clock ?? systemClock).nowMs();
    const knowsOthers = await cache.removeStale((segment) => names.has(segment), nowMs);
    index.mayMissSegments = !isKnown || knowsOthers;
  } catch (error) {
    cache.close();
    throw error;
  }
  return index;
}

function readSnapshot(
  cache: SegmentCache,
  isWanted: (name: Uint8Array) => boolean,
): TableSnapshot | undefined {
  using reader = SnapshotReader.open(cache);
  return reader === undefined ? undefined : decodeSnapshot(reader, isWanted);
}

/**
 * The index of one vault. Reading methods are synchronous and may be called at any time, also while
 * segments are added. One process has one; several processes may share its cache folder.
 */
export class BlockIndex implements AsyncDisposable {
  readonly #options: IndexOptions;
  readonly #cache: SegmentCache;
  readonly #pages: PageCache;
  readonly #entries: EntryReader;
  readonly #table: IdTable;
  readonly #loader: SegmentLoader;
  /** Segments that are in, or on their way. */
  readonly #names = new Set<string>();
  readonly #repairs: SegmentRepairs;
  /** Packs that are about to be removed: whole as yet. */
  readonly #condemned: DistrustedPacks;
  /** Packs that cannot be read, or not all of them. */
  readonly #defective: DistrustedPacks;
  /** Numbers of segments that were taken in after {@link trustUntilNow}. */
  #late: readonly { readonly name: string; readonly start: number; readonly end: number }[] = [];
  #isTrustClosed = false;
  /**
   * Whether segments may be gone that nobody meant to remove: this host's cache is new, or it knows some
   * that were not listed. Whoever has made sure that there are none sets it false.
   */
  mayMissSegments = true;
  readonly #distrust = new Map<Distrust, readonly Uint8Array[]>();
  readonly #distrusting = new Semaphore(1);
  #strangers = 0;
  #savedEntries: number;
  #savedSegments: number;

  /** Use {@link openIndex}. */
  constructor(options: IndexOptions, cache: SegmentCache, snapshot: TableSnapshot | undefined) {
    this.#options = options;
    this.#cache = cache;
    this.#pages = new PageCache(options.pageCacheBytes ?? pageCacheBytes);
    this.#entries = new EntryReader(this.#pages);
    this.#table = snapshot?.table ?? new IdTable();
    for (const { name, shape } of snapshot?.segments ?? []) {
      const source = cache.find(name);
      assert(source !== undefined, "a snapshot lies in the folder of its segments");
      this.#entries.add(name, shape, source).state = "whole";
      this.#names.add(toHex(name));
    }
    this.#savedEntries = this.#entries.numbers;
    this.#savedSegments = this.#entries.segments.length;
    this.#loader = new SegmentLoader({
      cache,
      readSegment: options.readSegment,
      entries: this.#entries,
      table: this.#table,
      isKnown: (ids, at) => this.has(ids, at),
      onAdded: async (segment) => {
        await this.#condemned.note(segment);
        await this.#defective.note(segment);
      },
    });
    this.#repairs = new SegmentRepairs({
      entries: this.#entries,
      loader: this.#loader,
      signal: options.signal,
    });
    const read: SegmentRead = (segment, work) => this.#repairs.read(segment, work);
    this.#condemned = new DistrustedPacks(this.#entries, read);
    this.#defective = new DistrustedPacks(this.#entries, read);
  }

  /** Segments that could not be read when they were to be loaded. */
  get lost(): readonly LostSegment[] {
    return this.#repairs.lost;
  }

  /**
   * Whether the vault holds the block or node, in a pack that a durable segment names and that is
   * not distrusted: nothing less may be built on. False as well where the cache is damaged just there: then it is stored once
   * more, and the cache is rebuilt.
   *
   * @param at Where the 24 bytes of the id start in `ids`.
   */
  has(ids: Uint8Array, at = 0): boolean {
    try {
      return this.#find(ids, at, "trusted") >= 0;
    } catch (error) {
      this.#repairs.start(this.#repairs.damagedBy(error));
      return false;
    }
  }

  /**
   * From now on blocks in these packs (32-byte names) count as absent: {@link has} does not find them,
   * {@link lookup} and {@link locate} only where they lie nowhere else. Replaces what an earlier call
   * said for the same reason; holds for segments that are added later too. Calls take effect one
   * after the other, in their order. Errors: those of reading the vault.
   */
  async setDistrusted(reason: Distrust, packNames: readonly Uint8Array[]): Promise<void> {
    await this.#distrusting.run(async () => {
      this.#distrust.set(reason, packNames);
      const of = (why: Distrust): readonly Uint8Array[] => this.#distrust.get(why) ?? [];
      if (reason === "condemned") await this.#condemned.replace(packNames);
      else await this.#defective.replace([...of("defect"), ...of("unread")]);
    });
  }

  /**
   * What {@link refresh} takes in from now on is found by {@link locate} alone, until
   * {@link trustListed} names it: a backup builds on what it has listed itself, and on what it puts.
   */
  trustUntilNow(): void {
    this.#isTrustClosed = true;
  }

  /** From now on these segments count for dedup as well, whenever they were taken in. */
  trustListed(segmentNames: Iterable<Uint8Array>): void {
    const listed = new Set<string>();
    for (const name of segmentNames) listed.add(toHex(name));
    this.#late = this.#late.filter(({ name }) => !listed.has(name));
  }

  /** Ends {@link trustUntilNow}; all segments of the index count for dedup again. */
  trustAgain(): void {
    this.#isTrustClosed = false;
    this.#late = [];
  }

  /**
   * Forgets segments that are not among `segmentNames`: a collection removed them from the store.
   * Returns how many there were.
   *
   * @param before {@link segmentCount} when the listing began: what came in since then was not looked for.
   */
  retire(segmentNames: Iterable<Uint8Array>, before = this.segmentCount): number {
    let retired = 0;
    const present = new Set<string>();
    for (const name of segmentNames) present.add(toHex(name));
    for (const segment of this.#entries.segments.slice(0, before)) {
      const name = toHex(segment.name);
      if (segment.state !== "whole" || present.has(name)) continue;
      segment.state = "lost";
      this.#names.delete(name);
      retired++;
    }
    if (retired > 0) this.mayMissSegments = true;
    return retired;
  }

  /** How many segments were ever taken in. */
  get segmentCount(): number {
    return this.#entries.segments.length;
  }

  /** Names of the segments that count, 32 bytes each. */
  get segmentNames(): readonly Uint8Array[] {
    return this.#entries.segments.flatMap(({ state, name }) => (state === "whole" ? [name] : []));
  }

  /** Every pack of a segment with its entries; empty where the segment is not in the index. */
  async packsOf(segmentName: Uint8Array): Promise<readonly IndexPack[]> {
    const isIt = ({ state, name }: LoadedSegment): boolean =>
      state === "whole" && bytesEqual(name, segmentName);
    const segment = this.#entries.segments.find(isIt);
    const packs: IndexPack[] = [];
    if (segment === undefined) return packs;
    for (let at = 0; at < segment.shape.packs; at++) {
      const pack = await this.#readPack(segment, at);
      if (pack !== undefined) packs.push(pack);
    }
    return packs;
  }

  /**
   * Number of an entry with the id at `ids[at]`, from 0 and below the count of entries: one that may
   * be built on if there is any, else one that can be read if there is any; -1 where no segment names the id. For tables of bits over the index.
   * `guess` is returned if it is such an entry: who asks in disk order finds the next one there.
   * Throws what {@link lookup} throws.
   */
  numberOf(ids: Uint8Array, at: number, guess = -1): number {
    try {
      if (this.#isTrustedEntry(guess, ids, at)) return guess;
      return this.#findBest(ids, at);
    } catch (error) {
      throw this.#startRepair(error);
    }
  }

  /** The id of an entry by its number, 24 bytes. Throws what {@link lookup} throws. */
  idOf(number: number): Uint8Array {
    try {
      return this.#entries.idOf(number);
    } catch (error) {
      throw this.#startRepair(error);
    }
  }

  /** Where the entry of a number lies. Throws what {@link lookup} throws. */
  locationOf(number: number): BlockLocation {
    try {
      return this.#entries.locationOf(number);
    } catch (error) {
      throw this.#startRepair(error);
    }
  }

  /**
   * Where a block or node lies; `undefined` where no segment names it. Copies in packs that are not
   * distrusted come first, then those in packs that are only about to be removed.
   *
   * Errors: Busy (backoff) where the local cache is damaged just there and its rebuild has begun.
   * {@link locate} waits for that; a writer, who needs no location, calls {@link has}.
   */
  lookup(id: Uint8Array): BlockLocation | undefined {
    try {
      return this.#lookup(id);
    } catch (error) {
      throw this.#startRepair(error);
    }
  }

  /** {@link lookup}, after repair where the cache is damaged. Errors: those of reading the vault. */
  async locate(id: Uint8Array): Promise<BlockLocation | undefined> {
    for (let repairs = 0; repairs < repairsPerReadMax; repairs++) {
      try {
        return this.#lookup(id);
      } catch (error) {
        await this.#repairs.repair(this.#repairs.damagedBy(error));
      }
    }
    return this.lookup(id);
  }

  /** Takes in a segment that this process put. Errors: ConfigInvalid as of {@link openIndex}. */
  async addSegment(name: Uint8Array, packs: readonly IndexPack[]): Promise<void> {
    const segment = toHex(name);
    if (this.#names.has(segment)) return;
    this.#names.add(segment);
    try {
      await this.#loader.enter(await this.#loader.keep(name, packs.map(toIndexColumns)));
      this.#assertBudget();
    } catch (error) {
      this.#names.delete(segment);
      throw error;
    }
  }

  /** Takes in segments of the store that are not in yet; see {@link openIndex} for errors. */
  async refresh(segmentNames: Iterable<Uint8Array>, signal?: AbortSignal): Promise<void> {
    const names = [...segmentNames].values();
    const load = async (): Promise<void> => {
      for (const name of names) await this.#load(name, signal);
    };
    await Promise.all(Array.from({ length: readsAtOnce }, load));
  }

  /** Every pack of every segment with its entries, in the order of segments; a pack may come twice. */
  async *packs(): AsyncGenerator<IndexPack> {
    for (const segment of this.#entries.segments) {
      for (let at = 0; at < segment.shape.packs; at++) {
        const pack = await this.#readPack(segment, at);
        if (pack !== undefined) yield pack;
      }
    }
  }

  /** Every pack of every segment without its entries; a pack may come twice. */
  async *packExtents(): AsyncGenerator<PackExtent> {
    for (const segment of this.#entries.segments) {
      for (let at = 0; at < segment.shape.packs; at++) {
        const extent = await this.#repairs.read(segment, () =>
          this.#entries.packExtent(segment, at),
        );
        if (extent !== undefined) yield extent;
      }
    }
  }

  /** The pack of that name; `undefined` where no segment names it. Reads the heads of all packs. */
  async entriesOf(packName: Uint8Array): Promise<IndexPack | undefined> {
    for (const segment of this.#entries.segments) {
      for (let at = 0; at < segment.shape.packs; at++) {
        const head = await this.#repairs.read(segment, () => this.#entries.packHead(segment, at));
        if (head === undefined || !bytesEqual(head.name, packName)) continue;
        return await this.#readPack(segment, at);
      }
    }
    return undefined;
  }

  /** What the index holds and takes now. */
  get statistics(): IndexStatistics {
    return {
      segments: this.#entries.segments.length,
      entries: this.#entries.numbers,
      memoryBytes: this.#memoryBytes,
      tableBytes: this.#table.memoryBytes,
      segmentBytes: this.#cache.memoryBytes,
      pageReads: this.#pages.reads,
      strangers: this.#strangers,
      rebuiltSegments: this.#loader.rebuilt,
      cacheProblem: this.#cache.problem,
    };
  }

  /** Writes a snapshot if the last one is old; nothing may be added meanwhile. */
  async save(): Promise<void> {
    const { numbers, segments } = this.#entries;
    const entries = numbers - this.#savedEntries;
    const isDue =
      entries >= Math.max(snapshotEntries, numbers * snapshotShare) ||
      segments.length - this.#savedSegments >= snapshotSegments;
    if (!isDue || segments.some(({ state }) => state !== "whole")) return;
    const parts = encodeSnapshot({ segments, table: this.#table });
    if (!(await writeSnapshot(this.#cache, parts))) return;
    this.#savedEntries = numbers;
    this.#savedSegments = segments.length;
  }

  /** Saves a snapshot if it is due, and closes files. The index is not used afterwards. */
  async close(): Promise<void> {
    await this.#repairs.settle();
    await this.save();
    this.#cache.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  get #memoryBytes(): number {
    const parts = [this.#table, this.#pages, this.#cache];
    const segmentsBytes = this.#entries.segments.length * segmentObjectBytes;
    return parts.reduce((sum, { memoryBytes }) => sum + memoryBytes, segmentsBytes);
  }

  #lookup(id: Uint8Array): BlockLocation | undefined {
    const number = this.#findBest(id, 0);
    return number < 0 ? undefined : this.#entries.locationOf(number);
  }

  /** Number of the entry with the id that is relied on most, or -1. */
  #findBest(ids: Uint8Array, at: number): number {
    let number = this.#find(ids, at, "trusted");
    if (number < 0 && !this.#defective.isEmpty) number = this.#find(ids, at, "readable");
    return number < 0 ? this.#find(ids, at, "any") : number;
  }

  /** Number of an entry with the id, or -1. */
  #find(ids: Uint8Array, at: number, which: "trusted" | "readable" | "any"): number {
    let number = this.#table.first(ids, at);
    for (; number >= 0; number = this.#table.next()) {
      if (!this.#entries.hasId(number, ids, at)) this.#strangers++;
      else if (which === "any") break;
      else if (which === "readable" ? !this.#defective.holds(number) : this.#isTrusted(number))
        break;
    }
    return number;
  }

  #startRepair(error: unknown): KluisError {
    const segment = this.#repairs.damagedBy(error);
    this.#repairs.start(segment);
    return new KluisError(
      "Busy",
      `Cannot look a block up: the cache of index segment "${toHex(segment.name)}" is damaged and being rebuilt`,
      { cause: error },
    );
  }

  #isTrustedEntry(number: number, ids: Uint8Array, at: number): boolean {
    if (number < 0 || number >= this.#entries.numbers) return false;
    return this.#isTrusted(number) && this.#entries.hasId(number, ids, at);
  }

  #isTrusted(number: number): boolean {
    return (
      !this.#condemned.holds(number) && !this.#defective.holds(number) && !this.#isLate(number)
    );
  }

  #isLate(number: number): boolean {
    return this.#late.some(({ start, end }) => number >= start && number < end);
  }

  async #load(name: Uint8Array, signal?: AbortSignal): Promise<void> {
    if (this.#names.has(toHex(name))) return;
    this.#names.add(toHex(name));
    try {
      const prepared = await this.#loader.prepare(name, signal);
      // Numbers are given in the turn in which the entries begin to be entered.
      const start = this.#entries.numbers;
      const end = start + prepared.shape.entries;
      if (this.#isTrustClosed) this.#late = [...this.#late, { name: toHex(name), start, end }];
      await this.#loader.enter(prepared, signal);
    } catch (error) {
      this.#names.delete(toHex(name));
      this.#repairs.lose(name, error);
      this.#names.add(toHex(name));
    }
    this.#assertBudget();
  }

  async #readPack(segment: LoadedSegment, at: number): Promise<IndexPack | undefined> {
    const columns = await this.#repairs.read(segment, () => this.#entries.readPack(segment, at));
    return columns === undefined ? undefined : fromIndexColumns(columns);
  }

  #assertBudget(): void {
    const allowed = this.#options.memoryBytesMax ?? indexMemoryBytesMax;
    if (this.#memoryBytes <= allowed) return;
    const why = this.#cache.problem === undefined ? "" : ` (cache: ${this.#cache.problem})`;
    throw new KluisError(
      "ConfigInvalid",
      `Cannot hold the index of the vault: ${this.#entries.numbers} entries take ${this.#memoryBytes} bytes of memory, more than ${allowed}${why}`,
    );
  }
}
