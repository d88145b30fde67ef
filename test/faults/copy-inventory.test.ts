/**
 * Goal: a check of a secondary without a key finds every object that its recovery points miss and no
 * other, also where the primary has deleted and collected, and the secondary's inventory stays small.
 * Method: each object of a small secondary is damaged in each way in turn; another one gets a point in
 * each of many replications, in a store that takes removals and in one that refuses them.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { copyPartsMin } from "#vault/copy/copy-inventory.ts";
import { healVault } from "#vault/heal.ts";
import { promoteVault, replicateVault } from "#vault/replicate.ts";
import { verifyStore } from "#vault/verify-store.ts";
import { assertCopyReads, contentOf, copyOptions, createCopyWorld, idsOf } from "./copy-world.ts";
import { countDamage } from "./keyless-damage.ts";

const random = createSeededRandom("copy inventory");

async function checkWithoutKey(store: ObjectStore, vaultId: Uint8Array) {
  return await verifyStore({ store, vaultId, depth: "objects", clock: systemClock });
}

async function countParts(store: ObjectStore): Promise<number> {
  return [...(await contentOf(store)).keys()].filter((name) => name.startsWith("inventory/"))
    .length;
}

test("copy inventory: every object that a secondary misses is named without a key, and no other", async () => {
  const world = await createCopyWorld(random);
  const { vaultId } = world.keys;
  const secondary = createMemoryStore();
  await replicateVault(copyOptions(world, secondary));
  await world.grow();
  await replicateVault(copyOptions(world, secondary));
  const sound = await checkWithoutKey(secondary, vaultId);
  assert.deepEqual([sound.verdict, sound.objectsUnnamed], ["sound", 0]);
  const { cases, unnamed } = await countDamage(await contentOf(secondary), {
    vaultId,
    random,
    isHarmed: (name) => /^(?:packs|maps|index|points|inventory)\//.test(name),
  });
  assert.deepEqual(unnamed, []);
  console.log(`${cases} cases in a secondary`);
  assert.ok(cases > 60);
});

test("copy inventory: what the primary collected is still expected in the secondary", async () => {
  const world = await createCopyWorld(random);
  const { keys, primary } = world;
  const secondary = createMemoryStore();
  await replicateVault(copyOptions(world, secondary));
  const before = await contentOf(primary);
  {
    await using vault = await openTestVault({ store: primary, keys });
    const clone = world.points.at(-1)?.manifest.pointId;
    for (const point of await vault.listPoints()) {
      if (point.pointId !== clone) await vault.deletePoint(point);
    }
    const report = await vault.collect({ unusedShare: 0, allowMassDeletion: true });
    assert.equal(report.end, "done");
  }
  const after = await contentOf(primary);
  const collected = [...before.keys()].filter(
    (name) => name.startsWith("packs/") && !after.has(name),
  );
  assert.ok(collected.length > 0);
  await replicateVault(copyOptions(world, secondary));
  assert.equal((await checkWithoutKey(secondary, keys.vaultId)).verdict, "sound");
  assert.deepEqual(await assertCopyReads(secondary, world), idsOf(world.points));
  for (const name of collected) {
    const hurt = createMemoryStore(await contentOf(secondary));
    await hurt.remove(name);
    const { badObjects } = await checkWithoutKey(hurt, keys.vaultId);
    assert.deepEqual(
      badObjects.map((object) => object.name),
      [name],
    );
  }
});

for (const isDenied of [false, true]) {
  const where = isDenied ? "where removals are refused" : "where removals are allowed";
  test(`copy inventory: many replications leave few parts that count, ${where}`, async () => {
    const world = await createCopyWorld(random);
    const { vaultId } = world.keys;
    const secondary = new FaultyStore(createMemoryStore());
    await replicateVault(copyOptions(world, secondary));
    if (isDenied) {
      const error = new KluisError("StoreDenied", "Cannot remove: the test forbids it");
      secondary.inject({ method: "remove", fault: { kind: "error", error }, times: Infinity });
    }
    let most = 0;
    for (let run = 0; run < copyPartsMin / 2 + 4; run++) {
      await world.grow();
      await replicateVault(copyOptions(world, secondary));
      most = Math.max(most, await countParts(secondary));
    }
    const parts = await countParts(secondary);
    if (isDenied) assert.ok(parts >= copyPartsMin && parts <= copyPartsMin + 12, String(parts));
    else assert.ok(most <= copyPartsMin && parts < 12, `${most} parts, then ${parts}`);
    const report = await checkWithoutKey(secondary, vaultId);
    assert.deepEqual([report.verdict, report.objectsUnnamed], ["sound", 0]);
  });
}

test("copy inventory: a promoted secondary is a vault whose inventory goes on", async () => {
  const world = await createCopyWorld(random);
  const secondary = createMemoryStore();
  await replicateVault(copyOptions(world, secondary));
  await promoteVault({ secondary });
  await world.grow(secondary);
  const report = await checkWithoutKey(secondary, world.keys.vaultId);
  assert.deepEqual([report.verdict, report.objectsUnnamed], ["sound", 0]);
});

test("copy inventory: what healing brings back is named as before", async () => {
  const world = await createCopyWorld(random);
  const { primary, keys } = world;
  const copy = createMemoryStore();
  await replicateVault(copyOptions(world, copy));
  for (const name of (await contentOf(primary)).keys()) {
    if (/^(?:packs|maps|index)\//.test(name)) await primary.remove(name);
  }
  const report = await healVault({ ...copyOptions(world, copy), store: primary, copy });
  assert.deepEqual(report.unhealed, []);
  const { badObjects, objectsUnnamed } = await checkWithoutKey(primary, keys.vaultId);
  assert.deepEqual([badObjects, objectsUnnamed], [[], 0]);
  assert.deepEqual(await assertCopyReads(primary, world), idsOf(world.points));
});
