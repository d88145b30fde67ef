/** Chains of recovery points for tests of collections, and what must hold after one. */
import assert from "node:assert/strict";

import { systemClock } from "#base/clock.ts";
import { mapPackPrefix, packPrefix } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { Vault } from "#vault/vault.ts";
import { verifyVault } from "#vault/verify.ts";
import { MemoryDisk } from "./memory-disk.ts";
import { testKeys } from "./memory-vault.ts";
import type { SeededRandom } from "./seeded-random.ts";
import { backUp, type KeptPoint } from "./vault-points.ts";

const mib = 1024 * 1024;
const pageBytes = 4096;

/** What {@link writeChain} writes. */
export interface ChainOptions {
  readonly itemId: string;
  readonly points: number;
  readonly random: SeededRandom;
  /** MiB of the disk, whose last one is never written. */
  readonly diskMib: number;
  /** Between two points: bytes rewritten in one run, and pages anywhere. */
  readonly change: { readonly runBytes: number; readonly pages: number };
}

/** A chain of points of one item, each of which rewrites a part of the disk. */
export async function writeChain(vault: Vault, options: ChainOptions): Promise<KeptPoint[]> {
  const { itemId, points, random, diskMib, change } = options;
  const written = diskMib - 1;
  const disk = new MemoryDisk(diskMib * mib);
  disk.write(0, random.bytes(written * mib));
  const pageMax = Math.floor((written * mib) / pageBytes) - 1;
  const kept: KeptPoint[] = [];
  for (let number = 1; number <= points; number++) {
    const base = kept.at(-1);
    kept.push(await backUp(vault, { itemId, number, disks: [disk], ...(base && { base }) }));
    disk.write(random.integer(0, written - 1) * mib, random.bytes(change.runBytes));
    for (let at = 0; at < change.pages; at++) {
      disk.write(random.integer(0, pageMax) * pageBytes, random.bytes(pageBytes));
    }
  }
  return kept;
}

/** Deletes a point that is there. */
export async function deleteKept(vault: Vault, kept: KeptPoint): Promise<void> {
  const { itemId, pointId } = kept.manifest;
  const name = (await vault.listPoints(itemId)).find((point) => point.pointId === pointId);
  assert.ok(name, `point ${pointId} of ${itemId} is there`);
  await vault.deletePoint(name);
}

/** Bytes of all packs and map packs. */
export async function countPackBytes(store: ObjectStore): Promise<number> {
  let bytes = 0;
  for (const prefix of [packPrefix, mapPackPrefix]) {
    for await (const { sizeBytes } of store.list(prefix)) bytes += sizeBytes;
  }
  return bytes;
}

/** Verifies everything, with the keys of test vaults: nothing is damaged. */
export async function assertVaultSound(store: ObjectStore, vault: Vault): Promise<void> {
  const options = { store, keys: testKeys, vault, clock: systemClock, workers: 1 };
  const { verdict, badObjects } = await verifyVault(options);
  assert.deepEqual([verdict, badObjects], ["sound", []]);
}
