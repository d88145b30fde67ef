/** A small vault with a history, to be copied: its store, its keys and what its points hold. */
import assert from "node:assert/strict";

import { systemClock } from "#base/clock.ts";
import { systemRandom } from "#base/random.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { vaultHeaderName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import type { SeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import type { CopyRunOptions } from "#vault/copy-report.ts";
import { PointWalk } from "#vault/copy/reach.ts";
import { createKeyFileSecret } from "#vault/key-secret.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { createVaultFiles } from "#vault/vault-files.ts";
import { verifyVault } from "#vault/verify.ts";

const mib = 1024 * 1024;
const page = 4096;

/** A vault that can be copied. */
export interface CopyWorld {
  readonly primary: ObjectStore;
  readonly keys: VaultKeys;
  readonly points: KeptPoint[];
  /** Backs the next state of the disk up, to the primary or, as if it were that, to another store. */
  grow(store?: ObjectStore): Promise<KeptPoint>;
}

/** A vault of three points of one item and one of another. `wrap` gets the store to record or break it. */
export async function createCopyWorld(
  random: SeededRandom,
  wrap: (store: ObjectStore) => ObjectStore = (store) => store,
): Promise<CopyWorld> {
  const primary = wrap(createMemoryStore());
  const { secret } = createKeyFileSecret(random);
  const options = { secrets: [secret], random, withRecoveryKey: false };
  const { keys } = await createVaultFiles(primary, options);
  const disk = new MemoryDisk(5 * mib + 512);
  disk.write(0, random.bytes(3 * mib));
  const points: KeptPoint[] = [];
  async function commit(
    itemId: string,
    disks: readonly MemoryDisk[],
    store = primary,
  ): Promise<KeptPoint> {
    await using vault = await openTestVault({ store, keys });
    const base = points.findLast(({ manifest }) => manifest.itemId === itemId);
    const number = points.length + 1;
    const kept = await backUp(vault, { itemId, number, disks, ...(base && { base }) });
    points.push(kept);
    return kept;
  }
  async function grow(store?: ObjectStore): Promise<KeptPoint> {
    for (let writes = 0; writes < 5; writes++) {
      disk.write(page * random.integer(0, 1200), random.bytes(page * random.integer(1, 20)));
    }
    return await commit("vm", [disk], store);
  }
  await commit("vm", [disk]);
  await grow();
  await grow();
  const clone = disk.snapshot();
  clone.write(2 * mib, random.bytes(64 * 1024));
  await commit("clone", [clone]);
  return { primary, keys, points, grow };
}

/** Options for a copy between stores. */
export function copyOptions(world: CopyWorld, secondary: ObjectStore): CopyRunOptions {
  const { primary, keys } = world;
  return { primary, secondary, keys, clock: systemClock, random: systemRandom };
}

/** Ids of the points that a copy holds, each of which reads back as it was. */
export async function assertCopyReads(
  store: ObjectStore,
  world: Pick<CopyWorld, "keys" | "points">,
): Promise<readonly string[]> {
  if ((await store.stat(vaultHeaderName)) === undefined) return [];
  const { keys } = world;
  await using vault = await openTestVault({ store, keys });
  // Keeps the threads of all readers below.
  await using _reader = vault.openDisk({ root: undefined, sizeBytes: 0 });
  const ids: string[] = [];
  for (const name of await vault.listPoints()) {
    const kept = world.points.find(({ manifest }) => manifest.pointId === name.pointId);
    assert.ok(kept !== undefined, `point ${name.pointId} is one of the vault`);
    assert.deepEqual(await vault.readPoint(name), kept.manifest);
    await assertPointReads(vault, kept);
    ids.push(name.pointId);
  }
  return ids.sort();
}

/**
 * The same by names alone, for cases without number: every pack that a point needs is in the store, which a
 * copy hashed when it was put. Restores every `isSampled` one.
 */
export async function assertCopyWhole(
  store: ObjectStore,
  world: Pick<CopyWorld, "keys" | "points">,
  isSampled: boolean,
): Promise<readonly string[]> {
  if (isSampled) return await assertCopyReads(store, world);
  if ((await store.stat(vaultHeaderName)) === undefined) return [];
  const { keys } = world;
  await using vault = await openTestVault({ store, keys });
  const walk = new PointWalk({ store, keys, vault, signal: undefined });
  const there = await contentOf(store);
  const ids: string[] = [];
  for (const name of await vault.listPoints()) {
    const reason = await walk.walk(await vault.readPoint(name), undefined, (pack) => {
      assert.ok(there.has(pack), `"${pack}", which point ${name.pointId} needs, is there`);
    });
    assert.equal(reason, undefined);
    ids.push(name.pointId);
  }
  return ids.sort();
}

/** Everything that a store holds, or what of it is wanted, by name, in arrays of their own. */
export async function contentOf(
  store: ObjectStore,
  isWanted: (name: string) => boolean = () => true,
): Promise<Map<string, Uint8Array>> {
  const content = new Map<string, Uint8Array>();
  for await (const { name } of store.list("")) {
    if (!isWanted(name)) continue;
    content.set(name, new Uint8Array(await store.get(name)));
  }
  return content;
}

/** Verifies a copy as any vault. */
export async function assertCopySound(
  store: ObjectStore,
  { keys }: Pick<CopyWorld, "keys">,
): Promise<void> {
  await using vault = await openTestVault({ store, keys });
  const report = await verifyVault({ store, keys, vault, clock: systemClock, workers: 1 });
  assert.deepEqual([report.verdict, report.badObjects], ["sound", []]);
}

/** Ids of all points of a world, or of some, as {@link assertCopyReads} returns them. */
export function idsOf(points: readonly KeptPoint[]): readonly string[] {
  return points.map(({ manifest }) => manifest.pointId).sort();
}
