/**
 * Goal: a vault that is collected while it is copied gives a secondary on which every point restores.
 * Method: a collector that keeps to the order which the vault promises (manifest, then new index
 * segments, then old ones, then packs) deletes a point, frees what only that needed, and moves the
 * rest of one pack; it begins before every call of the copy in turn, fast or one step a call.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { encodeIndexSegment, type IndexPack } from "#formats/index-segment.ts";
import { indexSegmentName, parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { buildContainer } from "#vault/container/build-container.ts";
import { PointWalk } from "#vault/copy/reach.ts";
import { objectOfPack } from "#vault/copy/write-segments.ts";
import { replicateVault } from "#vault/replicate.ts";
import {
  assertCopyWhole,
  contentOf,
  copyOptions,
  type CopyWorld,
  createCopyWorld,
  idsOf,
} from "./copy-world.ts";
import { HookedStore } from "#testing/hooked-store.ts";

const random = createSeededRandom("copy collected");
const isLong = process.env["KLUIS_LONG"] === "1";

/** One collection, step by step; every pack that stays is named by one new segment. */
async function* collect(store: ObjectStore, world: CopyWorld): AsyncGenerator<void> {
  const { keys } = world;
  await using vault = await openTestVault({ store, keys });
  const names = await vault.listPoints();
  const first = names.find(({ pointId }) => pointId === world.points[0]?.manifest.pointId);
  const others = names.filter((name) => name !== first);
  assert.ok(first !== undefined);
  const needed = new Set<string>();
  const walk = new PointWalk({ store, keys, vault, signal: undefined });
  for (const name of others) {
    await walk.walk(await vault.readPoint(name), undefined, (pack) => needed.add(pack));
  }
  const old: string[] = [];
  const garbage: string[] = [];
  for await (const { name } of store.list("")) {
    const kind = parseStoreName(name)?.kind;
    if (kind === "index-segment") old.push(name);
    if ((kind === "pack" || kind === "map-pack") && !needed.has(name)) garbage.push(name);
  }
  const kept = new Map<string, IndexPack>();
  for await (const pack of vault.index.packs()) {
    if (needed.has(objectOfPack(pack))) kept.set(objectOfPack(pack), pack);
  }
  await store.remove(`points/${first.item}/${first.pointId}`);
  yield;
  const plain = encodeIndexSegment([...kept.values()]);
  const segment = buildContainer("indexSegment", plain, { keys, random: systemRandom });
  await store.put(indexSegmentName(segment.name), [segment.bytes]);
  for (const name of [...old, ...garbage]) {
    yield;
    await store.remove(name);
  }
}

/** Copies while a collection begins before call `start` and does a step every `pace` calls. */
async function copyDuring(
  world: CopyWorld,
  { start, pace }: { readonly start: number; readonly pace: number },
): Promise<boolean> {
  const inner = createMemoryStore(await contentOf(world.primary));
  const primary = new HookedStore(inner);
  const collection = collect(inner, world);
  let calls = 0;
  let isReached = false;
  let isBusy = false;
  primary.hook = async () => {
    const at = calls++;
    if (at < start || (at - start) % pace !== 0 || isBusy) return;
    isReached = true;
    isBusy = true;
    await collection.next();
    isBusy = false;
  };
  const secondary = createMemoryStore();
  const options = { ...copyOptions(world, secondary), primary };
  const report = await replicateVault(options);
  await collection.return(undefined);
  assert.deepEqual([report.heldBack, report.damaged, report.lag.bytes], [[], [], 0]);
  const there = await assertCopyWhole(secondary, world, start % 16 === 0);
  for (const id of idsOf(world.points.slice(1))) assert.ok(there.includes(id), `${id} is there`);
  return isReached;
}

test("copy collected: every point restores whatever a collector removes meanwhile", async () => {
  const world = await createCopyWorld(random);
  let cases = 0;
  for (const pace of [1, 3]) {
    for (let start = 0; ; start += isLong ? 1 : 5) {
      if (!(await copyDuring(world, { start, pace }))) break;
      cases++;
    }
  }
  console.log(`${cases} collections while a vault was copied`);
  assert.ok(cases > 15);
});

test("copy collected: a point that is committed meanwhile gets over whole or not at all", async () => {
  const world = await createCopyWorld(random);
  const before = idsOf(world.points);
  let cases = 0;
  for (let start = 0; ; start += isLong ? 1 : 7) {
    const inner = createMemoryStore(await contentOf(world.primary));
    const primary = new HookedStore(inner);
    const points = [...world.points];
    let calls = 0;
    primary.hook = async () => {
      if (calls++ === start) points.push(await world.grow(inner));
    };
    const secondary = createMemoryStore();
    await replicateVault({ ...copyOptions(world, secondary), primary });
    const there = await assertCopyWhole(secondary, { ...world, points }, false);
    for (const id of before) assert.ok(there.includes(id), `${id} is there`);
    world.points.length = before.length;
    if (calls <= start) break;
    cases++;
  }
  console.log(`${cases} backups while a vault was copied`);
  assert.ok(cases > 5);
});

test("copy collected: deletions and collections of Kluis itself, at any moment of a copy", async () => {
  const world = await createCopyWorld(random);
  const { keys } = world;
  const kept = { ...world, points: world.points.slice(1) };
  let cases = 0;
  for (let start = 0; ; start += isLong ? 1 : 11) {
    const inner = createMemoryStore(await contentOf(world.primary));
    await using vault = await openTestVault({ store: inner, keys });
    const doomed = (await vault.listPoints()).find(
      ({ pointId }) => pointId === world.points[0]?.manifest.pointId,
    );
    assert.ok(doomed !== undefined);
    const primary = new HookedStore(inner);
    let calls = 0;
    primary.hook = async () => {
      if (calls++ !== start) return;
      await vault.deletePoint(doomed);
      // Every pack of which a byte is not needed is repacked.
      const { end } = await vault.collect({ unusedShare: 0, allowMassDeletion: true });
      assert.equal(end, "done");
    };
    const secondary = createMemoryStore();
    await replicateVault({ ...copyOptions(world, secondary), primary });
    const there = await assertCopyWhole(secondary, world, false);
    for (const id of idsOf(kept.points)) assert.ok(there.includes(id), `${id} is there`);
    const { lag } = await replicateVault({ ...copyOptions(world, secondary), primary: inner });
    assert.equal(lag.objects, 0);
    await using second = await openTestVault({ store: secondary, keys });
    await assert.rejects(second.collect(), (error) => isKluisError(error, "StoreIsSecondary"));
    if (calls <= start) break;
    cases++;
  }
  console.log(`${cases} collections of Kluis itself while a vault was copied`);
  assert.ok(cases > 3);
});

test("copy collected: gives up with Busy where objects go away all the time", async () => {
  const world = await createCopyWorld(random);
  const primary = new HookedStore(world.primary);
  let gone = 0;
  const options = { ...copyOptions(world, createMemoryStore()), primary };
  const hidden: ObjectStore = {
    location: primary.location,
    put: (name, parts, signal) => primary.put(name, parts, signal),
    get: (name, range, signal) => primary.get(name, range, signal),
    list: (prefix, signal) => primary.list(prefix, signal),
    remove: (name, signal) => primary.remove(name, signal),
    probe: (signal) => primary.probe(signal),
    stat: async (name, signal) => {
      if (!name.startsWith("index/")) return await primary.stat(name, signal);
      gone++;
      return undefined;
    },
  };
  await assert.rejects(replicateVault({ ...options, primary: hidden }), (error) =>
    isKluisError(error, "Busy"),
  );
  assert.ok(gone >= 8);
});
