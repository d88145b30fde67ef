/**
 * A vault: opens one, lists its recovery points, writes new ones, reads disks back.
 *
 * Nothing but the store and one key is needed; the index cache on this host only saves time.
 */
import { availableParallelism } from "node:os";

import { assert } from "#base/assert.ts";
import { toHex } from "#base/bytes.ts";
import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { Semaphore } from "#base/semaphore.ts";
import type { Manifest, ManifestDisk } from "#formats/manifest.ts";
import { parseIndexSegment, type IndexPackColumns } from "#formats/index-segment.ts";
import {
  deletedName,
  deletedPrefix,
  indexPrefix,
  indexSegmentName,
  itemPrefix,
  parseStoreName,
  pointName,
  pointPrefix,
} from "#formats/store-names.ts";
import type { DiskReader } from "#ports/disk.ts";
import type { ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import { assertContentName, openContainer } from "#vault/container/container-reader.ts";
import { examineVault, type VaultHealth } from "#vault/health/examine.ts";
import type { PackListing } from "#vault/health/pack-listing.ts";
import { type BlockIndex, openIndex } from "#vault/index/block-index.ts";
import { BackupSession } from "#vault/gc/backup-session.ts";
import {
  type CollectionOptions,
  type CollectionReport,
  collectVault,
  runDeletion,
} from "#vault/gc/collect-vault.ts";
import { isTombstone, runSteps } from "#vault/gc/run-steps.ts";
import { deletePoint, listMarks } from "#vault/gc/session-protocol.ts";
import { toItemName } from "#vault/item-name.ts";
import { extendLocks, type LockExtensions } from "#vault/locks/extend-locks.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import {
  type FlushLimits,
  objectBytesMax,
  restoreBytesPerThread,
  workersMax,
} from "#vault/limits.ts";
import type { DiskMap } from "#vault/map/map-source.ts";
import { BlockReader } from "#vault/reader/block-reader.ts";
import { openManifest } from "#vault/open-manifest.ts";
import { Locator } from "#vault/reader/locate.ts";
import { NodeReader } from "#vault/reader/node-reader.ts";
import { VaultDiskReader } from "#vault/reader/vault-disk-reader.ts";
import { assertNotSecondary } from "#vault/copy/secondary.ts";
import { WorkerPool } from "#vault/workers/worker-pool.ts";
import { findChanges, type FoundChanges } from "#vault/writer/find-changes.ts";
import { LookAhead } from "#vault/writer/look-ahead.ts";
import {
  type PointInput,
  type TransferProgress,
  writePoint,
  type WrittenPoint,
} from "#vault/writer/point-writer.ts";
import {
  type SampledDisk,
  type SampleResult,
  sampleUnchanged,
} from "#vault/writer/sample-unchanged.ts";
import { writeHealing } from "#vault/writer/write-healing.ts";

/** What a vault is opened with. */
export interface VaultOptions {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly clock: Clock;
  readonly random: RandomSource;
  /** Where this host keeps index files; without one they live for this process only. */
  readonly cacheDirectory?: string;
  /**
   * Whether nothing of a disk is going to be read or written: then the index, and its cache on this host, are
   * left alone. A block that is asked for all the same is found, once all segments were read.
   */
  readonly withoutIndex?: boolean;
  /** Worker threads; by default one for each processor. */
  readonly workers?: number;
  /** Whether each frame is read back from memory before it is put; by default it is. */
  readonly verify?: boolean;
  /** What is about to be done, to points: its first thread starts now, before the vault is open. */
  readonly startThread?: "reading" | "writing";
  /** When a backup makes durable what waits; the defaults of `limits.ts` unless told otherwise. */
  readonly flushLimits?: FlushLimits;
}

/** How to write a point. */
export interface WriteOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: TransferProgress) => void;
}

/** What a collection came to. */
export type CollectedSpace = CollectionReport;

/** Where a recovery point lies. */
export interface PointName {
  /** Keyed name of the protected item. */
  readonly item: string;
  readonly pointId: string;
}

/**
 * An open vault. Several processes may have the same vault open. Calls may overlap, but for
 * {@link Vault.collect} and those that write: what the index may be built on is that of one of them, so
 * the other takes an object of its own.
 */
export class Vault implements AsyncDisposable {
  readonly #options: VaultOptions;
  readonly #index: BlockIndex;
  readonly #workers: number;
  readonly #locator: Locator;
  readonly #nodes: NodeReader;
  /** What all open disks share: threads and opened frames. */
  #reading: Reading | undefined;
  readonly #opening = new Semaphore(1);
  #backups = 0;
  #isCollecting = false;
  /** Threads that were started ahead, for the point that is read or written next. */
  #waiting: WorkerPool | undefined;

  private constructor(
    options: VaultOptions,
    opened: { readonly index: BlockIndex; readonly waiting: WorkerPool | undefined },
  ) {
    const { index } = opened;
    this.#options = options;
    this.#index = index;
    this.#waiting = opened.waiting;
    this.#workers = workersOf(options);
    this.#locator = new Locator(index, () => listSegments(options.store));
    this.#nodes = new NodeReader({ ...options, locator: this.#locator });
  }

  /** Opens a vault whose keys are known; reads the index segments that the cache does not have. */
  static async open(options: VaultOptions, signal?: AbortSignal): Promise<Vault> {
    const { store, keys, withoutIndex = false } = options;
    await using owned = new AsyncDisposableStack();
    const waiting = options.startThread === undefined ? undefined : owned.use(startPool(options));
    waiting?.warmUp(1);
    const index = await openIndex({
      segmentNames: withoutIndex ? [] : await listSegments(store, signal),
      readSegment: (name, given) => readIndexSegment({ store, keys, signal: given }, name),
      ...(options.cacheDirectory === undefined || withoutIndex
        ? {}
        : { cacheDirectory: options.cacheDirectory }),
      ...(signal === undefined ? {} : { signal }),
    });
    owned.move();
    const vault = new Vault(options, { index, waiting });
    if (withoutIndex) vault.#locator.expectMore();
    return vault;
  }

  /** Id of the vault: 32 hexadecimal digits. */
  get id(): string {
    return toHex(this.#options.keys.vaultId);
  }

  /** The index, for statistics and verification. */
  get index(): BlockIndex {
    return this.#index;
  }

  /** Finds blocks and nodes, also those of points that others committed since the vault was opened. */
  get locator(): Locator {
    return this.#locator;
  }

  /** Names of all recovery points, of one item or of all, oldest first within an item. */
  async listPoints(itemId?: string, signal?: AbortSignal): Promise<readonly PointName[]> {
    return (await this.#listPoints(itemId, signal)).points;
  }

  /** `unsure` are marks that are damaged: their points can be read, and nothing is built on them. */
  async #listPoints(
    itemId: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<{ readonly points: readonly PointName[]; readonly unsure: readonly string[] }> {
    const { store, keys } = this.#options;
    const prefix = itemId === undefined ? pointPrefix : itemPrefix(toItemName(keys, itemId));
    const points: PointName[] = [];
    // Marks first: they are removed after the manifest that they hide.
    const marks = listMarks(deletedPrefix + prefix.slice(pointPrefix.length));
    const { deleted, damaged: unsure } = await runSteps(marks, { ...this.#options, signal });
    for await (const info of store.list(prefix, signal)) {
      const parsed = parseStoreName(info.name);
      if (parsed?.kind !== "manifest" || deleted.has(info.name)) continue;
      if (await isTombstone(info, { store, keys, signal })) continue;
      points.push({ item: parsed.item, pointId: parsed.point });
    }
    points.sort((a, b) => compareText(a.item, b.item) || compareText(a.pointId, b.pointId));
    return { points, unsure };
  }

  /** Reads a recovery point. RecoveryPointNotFound (after-change), ObjectCorrupt (never). */
  async readPoint(point: PointName, signal?: AbortSignal): Promise<Manifest> {
    const { store, keys } = this.#options;
    const name = pointName(point.item, point.pointId);
    const info = await store.stat(name, signal);
    if (info === undefined) {
      throw new KluisError(
        "RecoveryPointNotFound",
        `Cannot read recovery point "${point.pointId}": there is none of that id`,
      );
    }
    const bytes = await readWhole(store, info, signal);
    // From here on other writers' segments matter: all that this manifest reaches is in them.
    this.#locator.expectMore();
    return openManifest(keys, bytes, point);
  }

  /** The newest recovery point of an item that can be built on, by the time in its id. */
  async readNewestPoint(itemId: string, signal?: AbortSignal): Promise<Manifest | undefined> {
    const { points, unsure } = await this.#listPoints(itemId, signal);
    const isSure = ({ item, pointId }: PointName): boolean =>
      !unsure.includes(deletedName(pointName(item, pointId)));
    const newest = points.findLast(isSure);
    return newest === undefined ? undefined : await this.readPoint(newest, signal);
  }

  /**
   * Looks which packs can be relied on now, and builds on no other from here on; what others put
   * meanwhile is taken in first, unless packs were listed just now, after what the index holds. See
   * {@link examineVault}.
   */
  async examine(signal?: AbortSignal, listing?: PackListing): Promise<VaultHealth> {
    const { store, keys } = this.#options;
    this.#locator.expectMore();
    if (listing === undefined) await this.#locator.refresh();
    // What others commit from here on is looked for when it is missed.
    this.#locator.expectMore();
    const health = await examineVault({ store, keys, index: this.#index, signal, listing });
    await this.#index.setDistrusted("defect", health.packs);
    return health;
  }

  /**
   * Writes and commits a recovery point, which heals what its base lost; see {@link writePoint}.
   * StoreIsSecondary (after-change).
   */
  async writePoint(input: PointInput, options: WriteOptions = {}): Promise<WrittenPoint> {
    assert(!this.#isCollecting, "a vault object does not back up while it collects");
    this.#backups++;
    try {
      return await this.#writePoint(input, options);
    } finally {
      this.#backups--;
    }
  }

  async #writePoint(input: PointInput, options: WriteOptions): Promise<WrittenPoint> {
    const { signal } = options;
    const { point, disks } = input;
    await using _ = { [Symbol.asyncDispose]: () => this.#endWaitingThreads() };
    // What the store is asked for meanwhile takes as long; a small increment needs one thread.
    const isIncrement = disks.some(({ increment }) => increment !== undefined);
    this.#waiting ??= startPool(this.#options);
    this.#waiting.warmUp(
      disks.every(({ increment }) => increment !== undefined) ? 1 : this.#workers,
    );
    await using ahead = new LookAhead(disks, signal);
    await assertNotSecondary(this.#options.store, signal);
    const item = toItemName(this.#options.keys, point.itemId);
    assert(!isIncrement || point.basePointId !== undefined, "an increment names its base");
    const bases =
      isIncrement && point.basePointId !== undefined ? [pointName(item, point.basePointId)] : [];
    const deps = { ...this.#options, index: this.#index, access: this.#nodes, signal };
    const commitKey = pointName(item, point.pointId);
    await using session = await this.#opening.run(() => BackupSession.open(commitKey, bases, deps));
    const planned = { ...input, disks: ahead.disks };
    const written = await writeHealing(planned, {
      ...deps,
      // Where a point is begun anew, packs are listed anew.
      examine: () => this.examine(signal, session.takeListing()),
      write: (healed) =>
        writePoint(healed, {
          ...deps,
          random: session.salts,
          commit: (put) => session.commit(put),
          workers: this.#workers,
          verify: this.#options.verify ?? true,
          startPool: () => this.#takeWaiting(),
          onProgress: options.onProgress ?? (() => {}),
        }),
    });
    // Sessions that open meanwhile would change the numbers of what is being marked.
    const freshRoots = rootsOf(written.manifest);
    await this.#opening.run(() => this.extendLocks({ freshRoots, signal }));
    return written;
  }

  /**
   * Where the store locks what it holds, gives what recovery points need a longer lock where it is due;
   * see {@link extendLocks}. A backup does so before it returns, a collection before it begins.
   */
  async extendLocks(
    options: {
      readonly freshRoots?: readonly Uint8Array[];
      readonly signal?: AbortSignal | undefined;
    } = {},
  ): Promise<LockExtensions> {
    const { signal } = options;
    if (this.#options.store.locks !== undefined) {
      this.#locator.expectMore();
      await this.#locator.refresh();
      this.#locator.expectMore();
    }
    const readRoots = async (): Promise<readonly Uint8Array[]> => {
      const roots: Uint8Array[] = [];
      for (const point of await this.listPoints(undefined, signal)) {
        roots.push(...(await this.#readRoots(point, signal)));
      }
      return roots;
    };
    const deps = { ...this.#options, index: this.#index, readRoots };
    return await extendLocks({ ...deps, ...options });
  }

  /**
   * Deletes a recovery point: from now on it does not exist; its space is freed by {@link collect}.
   * RecoveryPointNotFound, StoreIsSecondary; ObjectLocked while it is immutable (after-change). A mark that
   * is damaged is put anew; Busy (backoff) where a collection is at work then.
   */
  async deletePoint(point: PointName, signal?: AbortSignal): Promise<void> {
    await assertNotSecondary(this.#options.store, signal);
    const steps = deletePoint(pointName(point.item, point.pointId));
    await runDeletion(steps, { ...this.#options, signal }, point.pointId);
  }

  /** Frees what no recovery point needs; see {@link collectVault}. StoreIsSecondary (after-change). */
  async collect(options: CollectionOptions = {}, signal?: AbortSignal): Promise<CollectionReport> {
    const { store } = this.#options;
    return await this.#collectAlone(options, signal, () => assertNotSecondary(store, signal));
  }

  /** The same in a secondary, of what `mayRemove` names alone: nothing that a replication may bring back. */
  async collectSecondary(
    options: CollectionOptions & Required<Pick<CollectionOptions, "mayRemove">>,
    signal?: AbortSignal,
  ): Promise<CollectionReport> {
    return await this.#collectAlone(options, signal);
  }

  async #collectAlone(
    options: CollectionOptions,
    signal?: AbortSignal,
    check?: () => Promise<void>,
  ): Promise<CollectionReport> {
    const isFree = this.#backups === 0 && !this.#isCollecting;
    assert(isFree, "a vault object does not collect while it backs up or collects");
    this.#isCollecting = true;
    try {
      await check?.();
      return await this.#collect(options, signal);
    } finally {
      this.#isCollecting = false;
    }
  }

  async #collect(options: CollectionOptions, signal?: AbortSignal): Promise<CollectionReport> {
    if (options.dryRun !== true && this.#options.store.locks !== undefined) {
      // A damaged pack must not get the lock that the copy of its blocks needs.
      await this.examine(signal);
      await this.extendLocks({ signal });
    }
    const deps = { ...this.#options, index: this.#index, signal };
    const readRoots = async (name: string): Promise<readonly Uint8Array[]> => {
      const parsed = parseStoreName(name);
      if (parsed?.kind !== "manifest") return [];
      return await this.#readRoots({ item: parsed.item, pointId: parsed.point }, signal);
    };
    return await collectVault({ ...deps, readRoots }, options);
  }

  /** Compares a disk with an earlier point by checksums; see {@link findChanges}. */
  async findChanges(
    reader: DiskReader,
    base: DiskMap,
    options: WriteOptions & { readonly name: string },
  ): Promise<FoundChanges> {
    await using pool = startPool({ ...this.#options, verify: false });
    return await findChanges(
      { reader, base, access: this.#nodes },
      {
        pool,
        workers: this.#workers,
        signal: options.signal,
        onProgress: (doneBytes, totalBytes) =>
          options.onProgress?.({ disk: options.name, doneBytes, totalBytes }),
      },
    );
  }

  /** Compares a random sample of what is said to be unchanged; see {@link sampleUnchanged}. */
  async sampleUnchanged(disk: SampledDisk, signal?: AbortSignal): Promise<SampleResult> {
    const { keys, random } = this.#options;
    const { checksumKey } = keys;
    return await sampleUnchanged(disk, { access: this.#nodes, checksumKey, random, signal });
  }

  /**
   * Opens a disk of a recovery point; the caller disposes the reader. Open disks share threads and
   * memory, so their number does not matter.
   *
   * @param isRestore Whether all of it is about to be read: as many threads as will help start now.
   */
  openDisk(disk: Pick<ManifestDisk, "root" | "sizeBytes">, isRestore = false): DiskReader {
    if (this.#reading === undefined || this.#reading.pool.hasEnded) {
      this.#reading = this.#startReading();
    }
    const reading = this.#reading;
    reading.disks++;
    if (isRestore) reading.pool.warmUp(Math.ceil(disk.sizeBytes / restoreBytesPerThread));
    return new VaultDiskReader(disk, { access: this.#nodes, blocks: reading.blocks }, async () => {
      reading.disks--;
      if (reading.disks > 0) return;
      if (this.#reading === reading) this.#reading = undefined;
      await reading.blocks.close();
      await reading.pool[Symbol.asyncDispose]();
    });
  }

  /** Ends threads that wait, and closes what the index holds open. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#endWaitingThreads();
    await this.#index.close();
  }

  async #readRoots(point: PointName, signal?: AbortSignal): Promise<readonly Uint8Array[]> {
    return rootsOf(await this.readPoint(point, signal));
  }

  #takeWaiting(): WorkerPool {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    return waiting === undefined || waiting.hasEnded ? startPool(this.#options) : waiting;
  }

  async #endWaitingThreads(): Promise<void> {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    await waiting?.[Symbol.asyncDispose]();
  }

  #startReading(): Reading {
    const { store, keys, startThread } = this.#options;
    const isAhead = startThread === "reading";
    const pool = isAhead ? this.#takeWaiting() : startPool({ ...this.#options, verify: false });
    const deps = { store, keys, locator: this.#locator, workers: this.#workers, pool };
    return { pool, blocks: new BlockReader(deps), disks: 0 };
  }
}

interface Reading {
  readonly pool: WorkerPool;
  readonly blocks: BlockReader;
  /** Readers that are open. */
  disks: number;
}

function workersOf(options: VaultOptions): number {
  return Math.min(workersMax, options.workers ?? availableParallelism());
}

function startPool(options: VaultOptions): WorkerPool {
  const start = { keys: options.keys, verify: options.verify ?? true };
  return new WorkerPool({ start, size: workersOf(options) });
}

/** Reads and checks one index segment of a store. ObjectCorrupt, ObjectNotFound (never). */
export async function readIndexSegment(
  from: {
    readonly store: ObjectStore;
    readonly keys: VaultKeys;
    readonly signal?: AbortSignal | undefined;
  },
  sha256: Uint8Array,
): Promise<IndexPackColumns[]> {
  const { store, keys, signal } = from;
  const name = indexSegmentName(sha256);
  // Where there is none, it is the get that says so.
  const info = (await store.stat(name, signal)) ?? { name, sizeBytes: 0 };
  const bytes = await readWhole(store, info, signal);
  assertContentName(bytes, sha256, name);
  return parseIndexSegment(openContainer(keys, { name, bytes, type: "indexSegment" }).content);
}

async function listSegments(store: ObjectStore, signal?: AbortSignal): Promise<Uint8Array[]> {
  const names: Uint8Array[] = [];
  for await (const { name } of store.list(indexPrefix, signal)) {
    const parsed = parseStoreName(name);
    if (parsed?.kind === "index-segment") names.push(parsed.sha256);
  }
  return names;
}

/** A whole object, which nobody makes larger than a put allows; a store is not trusted in that. */
async function readWhole(
  store: ObjectStore,
  info: ObjectInfo,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const { name, sizeBytes } = info;
  if (sizeBytes > objectBytesMax) {
    throw new KluisError(
      "ObjectCorrupt",
      `Cannot read "${name}": it has ${sizeBytes} bytes, more than any object of a vault`,
      { details: { object: name } },
    );
  }
  return await store.get(name, { offsetBytes: 0, lengthBytes: sizeBytes }, signal);
}

function rootsOf({ disks }: Manifest): readonly Uint8Array[] {
  return disks.flatMap(({ root }) => (root === undefined ? [] : [root]));
}

function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
