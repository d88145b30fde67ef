/** A vault in a folder of the bench, used without a process of its own. */
import { availableParallelism } from "node:os";
import { join } from "node:path";

import { systemRandom } from "#base/random.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { newPointId, type CommittedPoint, type NewDisk } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";

const item = "bench";

/** An open vault, and its store. */
export interface BenchVault extends AsyncDisposable {
  readonly vault: Vault;
  readonly store: ObjectStore;
  readonly storeFolder: string;
}

/** Opens the vault in `folder`, whose store is made where there is none; with as many threads as cores. */
export async function openBenchVault(folder: string): Promise<BenchVault> {
  const storeFolder = join(folder, "store");
  const store = await openFileStore(storeFolder, { create: true });
  const cacheDirectory = join(folder, "cache");
  const vault = await openTestVault({ store, cacheDirectory, workers: availableParallelism() });
  return { vault, store, storeFolder, [Symbol.asyncDispose]: () => vault[Symbol.asyncDispose]() };
}

/** Writes a recovery point of one disk. */
export async function writeOneDisk(
  vault: Vault,
  disk: Omit<NewDisk, "name" | "tracking">,
  signal: AbortSignal,
): Promise<CommittedPoint> {
  const takenAtMs = Date.now();
  const base = disk.increment && (await vault.listPoints(item, signal)).at(-1);
  const point = {
    pointId: newPointId(takenAtMs, systemRandom),
    itemId: item,
    itemName: item,
    takenAtMs,
    consistency: "crash",
    ...(base === undefined ? {} : { basePointId: base.pointId }),
  } as const;
  const tracking = disk.increment === undefined ? "full" : "snapshot-difference";
  return await vault.writePoint(
    { point, disks: [{ name: "disk", tracking, ...disk }] },
    { signal },
  );
}
