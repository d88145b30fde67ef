/**
 * Goal: pruning a secondary takes out what the primary has deleted and collected, and nothing else: no point that the
 * primary has, none of which nothing proves that it was deleted, at any moment of another replication, wherever it dies.
 * Method: a vault of four points in memory is replicated, points are deleted and collected in the primary, and the
 * pruning is broken off, or another replication runs, before its n-th call of the secondary.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { HookedStore } from "#testing/hooked-store.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import type { KeptPoint } from "#testing/vault-points.ts";
import { replicateAndPrune, replicateVault } from "#vault/replicate.ts";
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

const random = createSeededRandom("copy prune");
const cases = process.env["KLUIS_LONG"] === "1" ? 200 : 12;
const all = { allowMassDeletion: true };

async function deletePoint({ primary, keys }: CopyWorld, kept: KeptPoint): Promise<void> {
  await using vault = await openTestVault({ store: primary, keys });
  const points = await vault.listPoints();
  const name = points.find(({ pointId }) => pointId === kept.manifest.pointId);
  assert.ok(name !== undefined);
  await vault.deletePoint(name);
}

async function collect({ primary, keys }: CopyWorld): Promise<void> {
  await using vault = await openTestVault({ store: primary, keys });
  await vault.collect({ ...all, unusedShare: 0 });
}

async function namesOf(store: ObjectStore, ...kinds: readonly string[]): Promise<Set<string>> {
  const content = await contentOf(store, (name) =>
    kinds.includes(parseStoreName(name)?.kind ?? ""),
  );
  return new Set(content.keys());
}

const dataOf = (store: ObjectStore): Promise<Set<string>> =>
  namesOf(store, "pack", "map-pack", "index-segment");

/** A primary of which the first and the last point were deleted and collected, and its secondary of before. */
async function createDeleted() {
  const world = await createCopyWorld(random);
  const secondary = createMemoryStore();
  await replicateVault(copyOptions(world, secondary));
  const [first, , , last] = world.points;
  assert.ok(first !== undefined && last !== undefined);
  for (const point of [first, last]) await deletePoint(world, point);
  const left = world.points.filter((point) => point !== first && point !== last);
  return { world, secondary, left };
}

async function assertKeylessSound(store: ObjectStore, { keys }: CopyWorld): Promise<void> {
  const { vaultId } = keys;
  const report = await verifyStore({ store, vaultId, depth: "objects", clock: systemClock });
  assert.deepEqual([report.verdict, report.badObjects], ["sound", []]);
}

test("copy prune: a secondary loses what its primary has deleted, and then what it has collected", async () => {
  const { world, secondary, left } = await createDeleted();
  const before = await dataOf(secondary);
  const marked = await replicateAndPrune(copyOptions(world, secondary));
  assert.deepEqual(marked.pruning, { pointsDeleted: 2, pointsUnexplained: 0, freedBytes: 0 });
  assert.deepEqual(await dataOf(secondary), before, "the primary has it all still");
  assert.deepEqual(await assertCopyReads(secondary, world), idsOf(left));
  await collect(world);
  const { pruning } = await replicateAndPrune(copyOptions(world, secondary), all);
  assert.ok(pruning !== undefined && pruning.freedBytes > 0);
  assert.equal(pruning.pointsDeleted, 0);
  assert.deepEqual(await assertCopyReads(secondary, world), idsOf(left));
  const now = await dataOf(secondary);
  const primary = await dataOf(world.primary);
  const collected = [...before].filter((name) => !primary.has(name));
  assert.ok(
    collected.some((name) => !now.has(name)),
    "what was collected went",
  );
  assert.ok(
    [...primary].every((name) => now.has(name)),
    "what the primary has is there",
  );
  await assertCopySound(secondary, world);
  await assertKeylessSound(secondary, world);
  // It goes on as before.
  const grown = await world.grow();
  assert.equal((await replicateAndPrune(copyOptions(world, secondary), all)).points, 1);
  assert.deepEqual(await assertCopyReads(secondary, world), idsOf([...left, grown]));
  await assertCopySound(secondary, world);
});

test("copy prune: points that were deleted and collected before go by the primary's inventory", async () => {
  const { world, secondary, left } = await createDeleted();
  await collect(world);
  const { pruning } = await replicateAndPrune(copyOptions(world, secondary), all);
  assert.equal(pruning?.pointsDeleted, 2);
  assert.deepEqual(await assertCopyReads(secondary, world), idsOf(left));
  await assertCopySound(secondary, world);
});

test("copy prune: what nothing proves deleted stays, and more than half goes only when told", async () => {
  const world = await createCopyWorld(random);
  const secondary = createMemoryStore();
  await replicateVault(copyOptions(world, secondary));
  const [manifest = ""] = await namesOf(world.primary, "manifest");
  await world.primary.remove(manifest);
  const { pruning } = await replicateAndPrune(copyOptions(world, secondary));
  assert.deepEqual([pruning?.pointsDeleted, pruning?.pointsUnexplained], [0, 1]);
  assert.deepEqual(await assertCopyReads(secondary, world), idsOf(world.points));
  await using vault = await openTestVault({ store: world.primary, keys: world.keys });
  for (const point of await vault.listPoints()) await vault.deletePoint(point);
  await assert.rejects(replicateAndPrune(copyOptions(world, secondary)), (error) => {
    return isKluisError(error, "CollectionRefused") && /3 of its 4 recovery/.test(error.message);
  });
  assert.deepEqual(await assertCopyReads(secondary, world), idsOf(world.points));
});

test("copy prune: wherever it dies no point that the primary has is touched, and the next run goes on", async () => {
  const { world, secondary, left } = await createDeleted();
  await collect(world);
  const content = await contentOf(secondary);
  let calls = 0;
  const count = new HookedStore(createMemoryStore(content), async () => void calls++);
  await replicateAndPrune(copyOptions(world, count), all);
  class Death extends Error {}
  for (let step = 0; step < cases; step++) {
    const at = Math.floor(((step + 1) * calls) / (cases + 1));
    const inner = createMemoryStore(content);
    let now = 0;
    const dying = new HookedStore(inner, async () => {
      if (now++ >= at) throw new Death();
    });
    await assert.rejects(replicateAndPrune(copyOptions(world, dying), all), Death);
    const there = await assertCopyWhole(inner, world, step % 4 === 0);
    for (const id of idsOf(left)) assert.ok(there.includes(id), `${id}, dead at call ${at}`);
    const { pruning } = await prunedAtLast(copyOptions(world, inner));
    assert.ok(pruning !== undefined);
    assert.deepEqual(await assertCopyWhole(inner, world, false), idsOf(left));
  }
});

/** A collection that died is waited for; its lease is of a host that gives no sign of life for two hours. */
async function prunedAtLast(options: ReturnType<typeof copyOptions>) {
  const laterMs = 3 * 3600 * 1000;
  const clock = {
    nowMs: () => systemClock.nowMs() + laterMs,
    monotonicMs: () => systemClock.monotonicMs(),
    sleep: systemClock.sleep.bind(systemClock),
  };
  return await replicateAndPrune({ ...options, clock }, all);
}

test("copy prune: a replication at any moment beside it brings points that restore", async () => {
  const { world, secondary, left } = await createDeleted();
  await collect(world);
  const before = await contentOf(secondary);
  const primaryBefore = await contentOf(world.primary);
  let calls = 0;
  const count = new HookedStore(createMemoryStore(before), async () => void calls++);
  await replicateAndPrune(copyOptions(world, count), all);
  for (let step = 0; step < cases; step++) {
    const at = Math.floor((step * calls) / cases);
    const primary = createMemoryStore(primaryBefore);
    const here = { ...world, primary };
    const inner = createMemoryStore(before);
    let now = 0;
    let grown: KeptPoint | undefined;
    const store = new HookedStore(inner, async () => {
      if (now++ !== at) return;
      grown = await world.grow(primary);
      await replicateVault(copyOptions(here, inner));
    });
    await replicateAndPrune(copyOptions(here, store), all);
    assert.ok(grown !== undefined);
    assert.deepEqual(
      await assertCopyWhole(inner, world, step % 3 === 0),
      idsOf([...left, grown]),
      `beside call ${at}`,
    );
    world.points.pop();
    await replicateAndPrune(copyOptions(here, inner), all);
    await assertCopySound(inner, world);
  }
});

test("copy prune: a replication that sleeps through a pruning brings points that restore", async () => {
  const { world, secondary, left } = await createDeleted();
  const grown = await world.grow();
  const before = await contentOf(secondary);
  const primaryBefore = await contentOf(world.primary);
  let calls = 0;
  const count = new HookedStore(createMemoryStore(before), async () => void calls++);
  await replicateVault(copyOptions(world, count));
  for (let step = 0; step < cases; step++) {
    const at = Math.floor((step * calls) / cases);
    const primary = createMemoryStore(primaryBefore);
    const here = { ...world, primary };
    const inner = createMemoryStore(before);
    let now = 0;
    const store = new HookedStore(inner, async () => {
      if (now++ !== at) return;
      await collect(here);
      await replicateAndPrune(copyOptions(here, inner), all);
    });
    await replicateVault(copyOptions(here, store));
    const there = await assertCopyWhole(inner, world, step % 3 === 0);
    for (const id of idsOf([...left, grown])) assert.ok(there.includes(id), `beside call ${at}`);
  }
});
