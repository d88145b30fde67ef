// Goal: a deletion mark that is damaged costs no recovery point and no space silently: the point is there,
// nothing is built on it, collections refuse until it is deleted again or kept, and verify names it.
// Method: a vault in memory of two points; the newest is deleted, and a bit of its mark turns over.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { deletedName, leaseName, pointName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys as keys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import { repairVault, type RepairReport } from "#vault/repair.ts";
import { type VerifyReport, verifyVault } from "#vault/verify.ts";
import type { Vault } from "#vault/vault.ts";
import { runSteps } from "./run-steps.ts";
import { putLease, toCollection } from "./session-protocol.ts";

const random = createSeededRandom("damaged mark");
const mib = 1024 * 1024;
const clock = systemClock;

interface World {
  readonly store: ObjectStore;
  readonly mark: string;
  readonly disk: MemoryDisk;
  readonly kept: readonly [KeptPoint, KeptPoint];
}

async function createWorld(): Promise<World> {
  const store = createMemoryStore();
  const disk = new MemoryDisk(2 * mib);
  disk.write(0, random.bytes(mib));
  await using vault = await openTestVault({ store });
  const first = await backUp(vault, { itemId: "vm", number: 1, disks: [disk] });
  disk.write(mib, random.bytes(mib));
  const second = await backUp(vault, { itemId: "vm", number: 2, disks: [disk], base: first });
  const newest = (await vault.listPoints()).at(-1);
  assert.ok(newest !== undefined);
  await vault.deletePoint(newest);
  const mark = deletedName(pointName(newest.item, newest.pointId));
  await flipObjectBit(store, mark, 8 * 90);
  return { store, mark, disk, kept: [first, second] };
}

async function on<T>(store: ObjectStore, work: (vault: Vault) => Promise<T>): Promise<T> {
  await using vault = await openTestVault({ store });
  return await work(vault);
}

const code = (expected: string, reason: RegExp) => (error: unknown) =>
  isKluisError(error) && error.code === expected && reason.test(error.message);

function verify(store: ObjectStore): Promise<VerifyReport> {
  return on(store, (vault) => verifyVault({ store, keys, vault, clock, workers: 1 }));
}

function repair(store: ObjectStore, isDryRun = false): Promise<RepairReport> {
  const deps = { store, keys, clock, random: systemRandom, workers: 1, isDryRun };
  return on(store, (vault) => repairVault({ ...deps, vault }));
}

test("damaged mark: the point is there, is no base, and stops a collection before it condemns", async () => {
  const { store, mark, disk, kept } = await createWorld();
  const names = async (): Promise<string[]> => {
    const all: string[] = [];
    for await (const { name } of store.list("")) all.push(name);
    return all.sort();
  };
  const before = await names();
  await on(store, async (vault) => {
    assert.equal((await vault.listPoints()).length, 2);
    for (const point of kept) await assertPointReads(vault, point);
    const base = await vault.readNewestPoint("vm");
    assert.equal(base?.pointId, kept[0].manifest.pointId, "nothing is built on it");
    const increment = { itemId: "vm", number: 3, disks: [disk], base: kept[1] };
    await assert.rejects(backUp(vault, increment), code("BackupFenced", /was deleted/));
  });
  const collect = on(store, (vault) => vault.collect({ allowMassDeletion: true }));
  await assert.rejects(
    collect,
    code("ObjectCorrupt", /deletion mark .* Delete the point again, or keep/),
  );
  assert.deepEqual(await names(), before);
  const report = await verify(store);
  assert.deepEqual([report.verdict, report.pointsVerdict], ["damaged", "sound"]);
  assert.deepEqual(
    report.badObjects.map(({ name }) => name),
    [mark],
  );
});

test("damaged mark: deleting again puts it anew, and the space is freed", async () => {
  const { store, kept } = await createWorld();
  await on(store, async (vault) => {
    const newest = (await vault.listPoints()).at(-1);
    assert.ok(newest !== undefined);
    await vault.deletePoint(newest);
    assert.equal((await vault.listPoints()).length, 1);
    const { plan } = await vault.collect({ allowMassDeletion: true });
    assert.ok(plan !== undefined && plan.garbageBytes > mib / 2);
    await assertPointReads(vault, kept[0]);
  });
  assert.equal((await verify(store)).verdict, "sound");
});

test("damaged mark: repair keeps the point, which is a base again", async () => {
  const { store, disk, kept } = await createWorld();
  assert.equal((await repair(store, true)).pointsKept, 1);
  const report = await repair(store);
  assert.deepEqual([report.pointsKept, report.verify.verdict], [1, "sound"]);
  await on(store, async (vault) => {
    disk.write(0, random.bytes(4096));
    const third = await backUp(vault, { itemId: "vm", number: 3, disks: [disk], base: kept[1] });
    await vault.collect({ allowMassDeletion: true });
    for (const point of [...kept, third]) await assertPointReads(vault, point);
  });
});

test("damaged mark: nobody touches it while a collection may have read it whole", async () => {
  const { store } = await createWorld();
  const deps = { store, keys, clock, random: systemRandom };
  const collection = toCollection("00112233445566ff");
  await runSteps(putLease(collection), deps);
  await assert.rejects(repair(store), code("Busy", /a collection is at work/));
  await on(store, async (vault) => {
    const newest = (await vault.listPoints()).at(-1);
    assert.ok(newest !== undefined);
    await assert.rejects(vault.deletePoint(newest), code("Busy", /a collection is at work/));
  });
  await store.remove(leaseName(collection.id));
  assert.equal((await repair(store)).pointsKept, 1);
});
