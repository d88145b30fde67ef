/**
 * A vault of many recovery points of one disk, which is collected now and then as one in use is: what
 * an increment, a listing and a pruning plan cost with few points and with many.
 */
import { join } from "node:path";

import { assert } from "#base/assert.ts";
import { systemClock } from "#base/clock.ts";
import { systemRandom } from "#base/random.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import { planPruning } from "#protect/prune.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { SeededRandom } from "#testing/seeded-random.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import { Vault } from "#vault/vault.ts";

import { median } from "./statistics.ts";

const item = "vm";

/** What was measured with so many recovery points; medians. */
export interface PointCost {
  readonly points: number;
  /** Finding the newest point, and writing one: after the backups of a while, before their collection. */
  readonly incrementMs: number;
  /** The same after the collection. */
  readonly collectedMs: number;
  readonly listMs: number;
  readonly pruneMs: number;
  /** The collection, which follows all references. */
  readonly collectMs: number;
}

const page = 4096;
const diskBytes = 16 * 1024 * 1024;
const changedPages = 4;
/** Points between two collections: those of a day of 200 VMs. */
const pointsPerCollection = 200;
/** Times of which the median counts. */
const repeats = 9;

/** Backs a disk up until there are so many points each time, and measures. */
export async function measurePointCounts(
  folder: string,
  counts: readonly number[],
  log: (line: string) => void,
): Promise<readonly PointCost[]> {
  await using chain = await PointChain.open(folder);
  const { vault } = chain;
  const costs: PointCost[] = [];
  for (const count of counts) {
    while (chain.points < count) {
      await chain.next();
      if (chain.points % pointsPerCollection === 0 && chain.points < count) {
        log(`${chain.points} points, collected in ${Math.round(await chain.collect())} ms`);
      }
    }
    const incrementMs = await medianOf(() => chain.next());
    const collectMs = await chain.collect();
    costs.push({
      points: count,
      incrementMs,
      collectMs,
      collectedMs: await medianOf(() => chain.next()),
      listMs: await medianOf(() => vault.listPoints()),
      pruneMs: await medianOf(() =>
        planPruning(vault, { last: 3 }, { nowMs: systemClock.nowMs() }),
      ),
    });
  }
  return costs;
}

/** A disk in memory, backed up again and again. */
class PointChain implements AsyncDisposable {
  readonly vault: Vault;
  readonly #disk = new MemoryDisk(diskBytes);
  readonly #random = new SeededRandom("collection");
  #base: KeptPoint | undefined;
  #points = 0;

  private constructor(vault: Vault) {
    this.vault = vault;
    this.#disk.write(0, this.#random.bytes(diskBytes / 2));
  }

  static async open(folder: string): Promise<PointChain> {
    const vault = await Vault.open({
      store: await openFileStore(join(folder, "store"), { create: true }),
      keys: testKeys,
      clock: systemClock,
      random: systemRandom,
      workers: 1,
      cacheDirectory: join(folder, "cache"),
    });
    return new PointChain(vault);
  }

  /** Recovery points there are. */
  get points(): number {
    return this.#points;
  }

  async next(): Promise<void> {
    for (let at = 0; at < changedPages; at++) {
      const offset = this.#random.integer(0, diskBytes / page - 1) * page;
      this.#disk.write(offset, this.#random.bytes(page));
    }
    this.#points++;
    const newest = await this.vault.readNewestPoint(item);
    assert(newest?.pointId === this.#base?.manifest.pointId, "the newest point is the last one");
    const options = { itemId: item, number: this.#points, disks: [this.#disk] };
    this.#base = await backUp(this.vault, { ...options, ...(this.#base && { base: this.#base }) });
  }

  /** Collects, and returns how long that took. */
  async collect(): Promise<number> {
    return (await this.vault.collect()).durationMs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vault[Symbol.asyncDispose]();
  }
}

async function medianOf(work: () => Promise<unknown>): Promise<number> {
  const times: number[] = [];
  for (let at = 0; at < repeats; at++) {
    const startMs = performance.now();
    await work();
    times.push(performance.now() - startMs);
  }
  return median(times);
}
