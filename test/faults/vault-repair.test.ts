// Goal: repair has back what can be had without the disks, says exactly what cannot, changes nothing
// when it is dry, removes no pack and no recovery point, and may be run again.
// Method: a vault of three points in memory; remove or change objects of one kind; repair; compare the
// verdict on each point with reading it back, and check the store without a key.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { windowBytes } from "#formats/geometry.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import { type RepairOptions, type RepairReport, repairVault } from "#vault/repair.ts";
import { verifyStore } from "#vault/verify-store.ts";

const random = createSeededRandom("vault repair");

interface World {
  readonly store: ObjectStore;
  readonly points: readonly KeptPoint[];
}

/** Three points of one disk; each adds a window of its own. */
async function createWorld(): Promise<World> {
  const store = createMemoryStore();
  const disk = new MemoryDisk(4 * 1024 * 1024);
  const points: KeptPoint[] = [];
  await using vault = await openTestVault({ store });
  for (let number = 1; number <= 3; number++) {
    disk.write(number * windowBytes, random.bytes(windowBytes));
    const base = points.at(-1);
    const options = { itemId: "disk", number, disks: [disk] };
    points.push(await backUp(vault, base === undefined ? options : { ...options, base }));
  }
  return { store, points };
}

async function namesOf(store: ObjectStore, prefix = ""): Promise<readonly string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(prefix)) names.push(name);
  return names.sort();
}

async function repair(
  store: ObjectStore,
  options: Partial<RepairOptions> = {},
): Promise<RepairReport> {
  await using vault = await openTestVault({ store });
  const deps = { store, keys: testKeys, vault, clock: systemClock, random: systemRandom };
  return await repairVault({ ...deps, workers: 1, ...options });
}

/** Whether each point reads back; wrong content fails the test. */
async function readable({ store, points }: World): Promise<readonly boolean[]> {
  await using vault = await openTestVault({ store });
  const results: boolean[] = [];
  for (const point of points) {
    try {
      await assertPointReads(vault, point);
      results.push(true);
    } catch (error) {
      if (!isKluisError(error)) throw error;
      results.push(false);
    }
  }
  return results;
}

async function keylessVerdict(store: ObjectStore): Promise<string> {
  const { vaultId } = testKeys;
  return (await verifyStore({ store, vaultId, depth: "objects", clock: systemClock })).verdict;
}

test("vault repair: builds the index again from the packs, whatever became of its segments", async () => {
  for (const way of ["removed", "changed"] as const) {
    const world = await createWorld();
    const { store } = world;
    for (const name of await namesOf(store, "index/")) {
      if (way === "removed") await store.remove(name);
      else await flipObjectBit(store, name, 900);
    }
    assert.deepEqual(await readable(world), [false, false, false]);
    const before = await namesOf(store);
    const dry = await repair(store, { isDryRun: true });
    assert.equal(dry.packsIndexed, 6, "three packs and three map packs");
    assert.deepEqual(await namesOf(store), before, "a dry run changes nothing");
    const done = await repair(store);
    assert.equal(done.packsIndexed, 6);
    assert.deepEqual(await readable(world), [true, true, true], way);
    assert.equal(await keylessVerdict(store), "sound");
    const again = await repair(store);
    assert.equal(again.packsIndexed + again.inventoryAdded + again.inventoryRemoved, 0);
    assert.equal(again.verify.verdict, "sound");
  }
});

test("vault repair: states the points and ranges that are lost, and forgets nothing of them", async () => {
  const world = await createWorld();
  const { store, points } = world;
  const packs = await namesOf(store, "packs/");
  await store.remove(packs[0] ?? "");
  const report = await repair(store);
  const reads = await readable(world);
  assert.ok(reads.includes(false));
  for (const [at, point] of points.entries()) {
    const judged = report.verify.points.find(({ name }) => name.pointId === point.manifest.pointId);
    assert.equal(judged?.verdict, reads[at] === true ? "sound" : "damaged");
    const [disk] = judged?.disks ?? [];
    assert.equal(disk?.damagedBytes, reads[at] === true ? 0 : windowBytes, "one window of each");
  }
  assert.equal(await keylessVerdict(store), "damaged", "what a point needs stays expected");
  assert.equal((await repair(store, { acceptLoss: true })).inventoryRemoved, 1);
  assert.equal(await keylessVerdict(store), "sound");
  assert.equal(
    (await repair(store)).verify.pointsVerdict,
    "damaged",
    "the points stay what they are",
  );
});

test("vault repair: makes a lost inventory whole, and a lost point stays an alarm until it is accepted", async () => {
  const world = await createWorld();
  const { store } = world;
  const parts = await namesOf(store, "inventory/");
  for (const [at, name] of parts.entries()) {
    if (at % 2 === 0) await flipObjectBit(store, name, 700);
    else if (at < parts.length - 1) await store.remove(name);
  }
  assert.equal(await keylessVerdict(store), "damaged");
  const report = await repair(store);
  assert.ok(report.inventoryAdded > 0);
  assert.equal(await keylessVerdict(store), "sound");
  assert.deepEqual(await readable(world), [true, true, true]);
  const [point = ""] = await namesOf(store, "points/");
  await store.remove(point);
  assert.equal((await repair(store)).inventoryRemoved, 0);
  assert.equal(await keylessVerdict(store), "damaged");
  assert.equal((await repair(store, { acceptLoss: true })).inventoryRemoved, 1);
  assert.equal(await keylessVerdict(store), "sound");
});

test("vault repair: lifts a finding when the object is whole again", async () => {
  const world = await createWorld();
  const { store } = world;
  const [pack = ""] = await namesOf(store, "packs/");
  const bytes = await store.get(pack);
  await flipObjectBit(store, pack, 5000);
  assert.equal((await repair(store)).findingsLifted, 0);
  await store.remove(pack);
  await store.put(pack, [bytes]);
  assert.equal((await repair(store)).findingsLifted, 1);
  assert.equal((await repair(store)).findingsLifted, 0);
  assert.deepEqual(await readable(world), [true, true, true]);
});
