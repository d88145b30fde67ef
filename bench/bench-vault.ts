/** A vault in a folder of the bench, used without a process of its own. */
import { availableParallelism } from "node:os";
import { join } from "node:path";

import { systemRandom } from "#base/random.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import { toHex } from "#base/bytes.ts";
import { encodeManifest, type ManifestDisk } from "#formats/manifest.ts";
import { pointName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { buildContainer } from "#vault/container/build-container.ts";
import { toItemName } from "#vault/item-name.ts";
import { newPointId, type CommittedPoint, type NewDisk } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import type { WriteSession } from "#vault/writer/write-session.ts";

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

/**
 * Commits a recovery point of a disk whose map `session` has stored and flushed, as the writer does:
 * the manifest, then its line in the inventory.
 */
export async function commitOneDisk(
  { store }: BenchVault,
  disk: ManifestDisk,
  { session, signal }: { readonly session: WriteSession; readonly signal: AbortSignal },
): Promise<void> {
  const takenAtMs = Date.now();
  const pointId = newPointId(takenAtMs, systemRandom);
  const point = { pointId, itemId: item, itemName: item, takenAtMs, committedAtMs: takenAtMs };
  const plain = encodeManifest({ ...point, consistency: "crash", disks: [disk] });
  const sealed = buildContainer("manifest", plain, { keys: testKeys, random: systemRandom });
  const name = pointName(toItemName(testKeys, item), pointId);
  await store.put(name, [sealed.bytes], signal);
  const sizeBytes = sealed.bytes.byteLength;
  await session.sink.writeInventory([{ name, sizeBytes, sha256: toHex(sealed.name) }]);
}
