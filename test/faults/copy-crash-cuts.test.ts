/**
 * Goal: whatever moment a copy dies at, every recovery point whose manifest has got over restores from
 * the secondary alone, nothing is overwritten, and the same command goes on to the end.
 * Its own inventory raises no alarm after any of these crashes, and names every object in the end.
 * Method: record every put of a replication and of a copy of chosen points; rebuild the secondary for
 * a crash before each event, with all or none of the puts under way; read every point; run again.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { parseStoreName, secondaryMarkerName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { type RecordedEvent, RecordingStore } from "#testing/recording-store.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { copyVault, promoteVault, replicateVault } from "#vault/replicate.ts";
import type { PointName } from "#vault/vault.ts";
import { verifyStore } from "#vault/verify-store.ts";
import {
  assertCopyReads,
  assertCopySound,
  assertCopyWhole,
  contentOf,
  copyOptions,
  type CopyWorld,
  createCopyWorld,
  idsOf,
} from "./copy-world.ts";

const random = createSeededRandom("copy crash cuts");

/** What a crash before each event of a log may have left, each content once. */
async function* crashesOf(store: RecordingStore): AsyncGenerator<ObjectStore> {
  const seen = new Set<string>();
  for (let cut = 0; cut <= store.events.length; cut++) {
    for (const rule of [() => false, () => true]) {
      const left = store.rebuild(cut, rule);
      const key = [...(await contentOf(left)).keys()].sort().join();
      if (!seen.has(key)) yield left;
      seen.add(key);
    }
  }
}

/** Parts of the inventory tell what each run has brought, so they differ. */
function isCopied(name: string): boolean {
  return !name.startsWith("inventory/");
}

/** What a check without a key says: no alarm, and this many objects that the inventory does not name. */
async function assertNoAlarm(store: ObjectStore, { keys }: CopyWorld): Promise<number> {
  const { vaultId } = keys;
  const options = { store, vaultId, depth: "structure", clock: systemClock } as const;
  const { badObjects, objectsUnnamed } = await verifyStore(options);
  const alarms = badObjects.filter(({ name }) => !name.startsWith("ring/"));
  assert.deepEqual(alarms, []);
  return objectsUnnamed;
}

/** The order of kinds in a log: what a reader needs first was put first. */
function assertOrder(events: readonly RecordedEvent[]): void {
  const ranks = ["secondary-marker", "slot", "vault-header", "pack", "index-segment", "manifest"];
  let last = 0;
  for (const { moment, change } of events) {
    if (change.kind !== "put") continue;
    const kind = parseStoreName(change.name)?.kind ?? "";
    const rank = ranks.indexOf(kind === "map-pack" ? "pack" : kind);
    if (rank < 0) continue;
    assert.ok(rank >= last, `${moment} of ${change.name} comes after one of ${ranks[last]}`);
    if (moment === "returned") last = rank;
  }
}

async function namesOf(world: CopyWorld, itemId: string): Promise<readonly PointName[]> {
  const wanted = world.points.filter(({ manifest }) => manifest.itemId === itemId);
  const ids = new Set(idsOf(wanted));
  const names: PointName[] = [];
  for await (const { name } of world.primary.list("points/")) {
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "manifest" || !ids.has(parsed.point)) continue;
    names.push({ item: parsed.item, pointId: parsed.point });
  }
  return names;
}

test("copy crash cuts: a replication that dies anywhere leaves points that restore, and goes on", async () => {
  const world = await createCopyWorld(random);
  const first = world.points.length;
  const recorded = await RecordingStore.open(createMemoryStore());
  await replicateVault(copyOptions(world, recorded));
  const firstEvents = recorded.events.length;
  await world.grow();
  const report = await replicateVault(copyOptions(world, recorded));
  assert.deepEqual([report.points, report.heldBack, report.lag.bytes], [1, [], 0]);
  assertOrder(recorded.events.slice(0, firstEvents));
  assertOrder(recorded.events.slice(firstEvents));
  const whole = await contentOf(recorded, isCopied);
  let cuts = 0;
  let restored = 0;
  for await (const left of crashesOf(recorded)) {
    cuts++;
    restored += (await assertCopyWhole(left, world, cuts % 6 === 0)).length;
    await assertNoAlarm(left, world);
    const { heldBack, lag } = await replicateVault(copyOptions(world, left));
    assert.deepEqual([heldBack, lag.points, lag.bytes, lag.ageMs], [[], 0, 0, 0]);
    assert.deepEqual(await contentOf(left, isCopied), whole);
    assert.equal(await assertNoAlarm(left, world), 0);
  }
  assert.deepEqual(await assertCopyReads(recorded, world), idsOf(world.points));
  await assertCopySound(recorded, world);
  console.log(`${cuts} crashes of a replication, ${restored} points found whole in what they left`);
  assert.ok(cuts > 20 && restored > first);
});

test("copy crash cuts: a copy of chosen points that dies anywhere goes on to a vault of its own", async () => {
  const world = await createCopyWorld(random);
  const chosen = await namesOf(world, "clone");
  const recorded = await RecordingStore.open(createMemoryStore());
  const report = await copyVault(copyOptions(world, recorded), chosen);
  assert.ok(report.isComplete && report.points === 1);
  let cuts = 0;
  for await (const left of crashesOf(recorded)) {
    const isDone = !(await contentOf(left)).has(secondaryMarkerName);
    const ids = await assertCopyWhole(left, world, false);
    cuts++;
    if (isDone && ids.length > 0) continue;
    await copyVault(copyOptions(world, left), chosen);
    assert.deepEqual(
      await assertCopyReads(left, world),
      chosen.map(({ pointId }) => pointId),
    );
    await assertCopySound(left, world);
    assert.equal(await assertNoAlarm(left, world), 0);
    assert.equal(await left.stat(secondaryMarkerName), undefined);
  }
  console.log(`${cuts} crashes of a copy of chosen points`);
  assert.ok(cuts > 8);
});

test("copy: a secondary, a copy and a vault of its own do not take each other's place", async () => {
  const world = await createCopyWorld(random);
  const isTaken = (error: unknown): boolean => isKluisError(error, "StoreNotEmpty");
  const second = createMemoryStore();
  await replicateVault(copyOptions(world, second));
  await assert.rejects(copyVault(copyOptions(world, second)), isTaken);
  const back = { ...copyOptions(world, createMemoryStore()), primary: second };
  await assert.rejects(replicateVault(back), (error) => isKluisError(error, "StoreIsSecondary"));
  await assert.rejects(world.grow(second), (error) => isKluisError(error, "StoreIsSecondary"));

  const copy = createMemoryStore();
  const { isComplete } = await copyVault(copyOptions(world, copy));
  assert.ok(isComplete);
  await assert.rejects(copyVault(copyOptions(world, copy)), isTaken);
  await assert.rejects(replicateVault(copyOptions(world, copy)), isTaken);
  await assert.rejects(replicateVault(copyOptions(world, world.primary)), isTaken);
  await world.grow(copy);
  // The next one builds on what the other stores have as well.
  world.points.pop();

  const other = await createCopyWorld(random);
  await assert.rejects(replicateVault(copyOptions(other, second)), isTaken);
  await promoteVault({ secondary: second });
  await assert.rejects(replicateVault(copyOptions(world, second)), isTaken);
  await world.grow(second);
});
