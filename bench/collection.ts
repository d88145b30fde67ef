/**
 * A vault of many recovery points of one disk: how fast a collection marks, and what a listing, a
 * pruning plan and an increment cost with few points and with many.
 */
import { join } from "node:path";

import { systemClock } from "#base/clock.ts";
import { systemRandom } from "#base/random.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import { planPruning } from "#protect/prune.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { SeededRandom } from "#testing/seeded-random.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import { Vault } from "#vault/vault.ts";

/** What was measured with so many recovery points. */
export interface PointCost {
  readonly points: number;
  readonly incrementMs: number;
  readonly listMs: number;
  readonly pruneMs: number;
}

/** What was measured of a vault. */
export interface CollectionFigures {
  readonly costs: readonly PointCost[];
  readonly references: number;
  readonly nodes: number;
  readonly collectMs: number;
}

const mib = 1024 * 1024;
const page = 4096;
const diskBytes = 64 * mib;
/** Times of which the median counts. */
const repeats = 5;

/** Backs a disk up until there are so many points each time, measures, and collects in the end. */
export async function measureCollection(
  folder: string,
  counts: readonly number[],
): Promise<CollectionFigures> {
  const store = await openFileStore(join(folder, "store"), { create: true });
  await using vault = await Vault.open({
    store,
    keys: testKeys,
    clock: systemClock,
    random: systemRandom,
    workers: 2,
    cacheDirectory: join(folder, "cache"),
  });
  const disk = new MemoryDisk(diskBytes);
  const random = new SeededRandom("collection");
  disk.write(0, random.bytes(diskBytes / 2));
  let base: KeptPoint | undefined;
  let number = 0;
  const next = async (): Promise<number> => {
    for (let at = 0; at < 20; at++) {
      disk.write(random.integer(0, diskBytes / page - 1) * page, random.bytes(page));
    }
    const startMs = performance.now();
    number++;
    base = await backUp(vault, { itemId: "vm", number, disks: [disk], ...(base && { base }) });
    return performance.now() - startMs;
  };
  const costs: PointCost[] = [];
  for (const count of counts) {
    for (let left = count - number; left > 0; left--) await next();
    const increments: number[] = [];
    for (let at = 0; at < repeats; at++) increments.push(await next());
    costs.push({
      points: count,
      incrementMs: median(increments),
      listMs: await medianOf(() => vault.listPoints()),
      pruneMs: await medianOf(() =>
        planPruning(vault, { last: 3 }, { nowMs: systemClock.nowMs() }),
      ),
    });
  }
  const report = await vault.collect({ dryRun: true });
  const { references, nodes, durationMs } = report;
  return { costs, references, nodes, collectMs: durationMs };
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

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
