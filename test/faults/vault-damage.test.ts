/**
 * Goal: whatever is damaged or missing in a vault is found and named, with exactly the points and
 * ranges that it touches. Method: every object of a small vault is flipped and removed in turn, and
 * the verdict on each disk is compared with what reading it back gives.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { windowBytes } from "#formats/geometry.ts";
import type { ManifestDisk } from "#formats/manifest.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { sliceOf } from "#testing/slice.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import type { PointName, Vault } from "#vault/vault.ts";
import { type VerifyReport, verifyVault } from "#vault/verify.ts";

const MiB = 1024 * 1024;
const objectsInSlice = 8;

type Objects = readonly (readonly [string, Uint8Array])[];

/** Three points: a full one of two disks, an increment, and a small one of another item. */
async function buildVault(): Promise<Objects> {
  const store = createMemoryStore();
  await using vault = await openTestVault({ store });
  const prng = createPrng(testSeed());
  const disks = [new MemoryDisk(6 * MiB), new MemoryDisk(3 * MiB)] as const;
  for (const disk of disks) disk.write(windowBytes, prng.bytes(MiB));
  const base: KeptPoint = await backUp(vault, { itemId: "vm", number: 1, disks });
  disks[0].write(4 * MiB, prng.bytes(3 * 4096));
  await backUp(vault, { itemId: "vm", number: 2, disks, base });
  const other = new MemoryDisk(MiB);
  other.write(0, prng.bytes(4096));
  await backUp(vault, { itemId: "other", number: 3, disks: [other] });
  return await readObjects(store);
}

async function readObjects(store: ObjectStore): Promise<Objects> {
  const objects: (readonly [string, Uint8Array])[] = [];
  for await (const { name } of store.list("")) objects.push([name, await store.get(name)]);
  return objects.toSorted(([a], [b]) => (a < b ? -1 : 1));
}

async function verify(store: ObjectStore, points?: readonly PointName[]) {
  await using vault = await openTestVault({ store });
  const report = await verifyVault({
    store,
    keys: testKeys,
    vault,
    clock: systemClock,
    workers: 1,
    ...(points === undefined ? {} : { points }),
  });
  return { report, truth: await readAll(vault, report) };
}

/** Windows of each disk that cannot be read back, by "point disk". */
async function readAll(vault: Vault, report: VerifyReport): Promise<ReadonlyMap<string, number>> {
  const bad = new Map<string, number>();
  for (const { name, manifest } of report.points) {
    for (const disk of manifest?.disks ?? []) {
      bad.set(`${name.pointId} ${disk.name}`, await countBadWindows(vault, disk));
    }
  }
  return bad;
}

async function countBadWindows(vault: Vault, disk: ManifestDisk): Promise<number> {
  await using reader = vault.openDisk(disk);
  let bad = 0;
  for (let at = 0; at < disk.sizeBytes; at += windowBytes) {
    const target = new Uint8Array(Math.min(windowBytes, disk.sizeBytes - at));
    await reader.read(at, target).catch((error: unknown) => {
      assert.ok(isKluisError(error), String(error));
      bad++;
    });
  }
  return bad;
}

/** The report must say of each disk just what reading it says. */
function assertTrue(report: VerifyReport, truth: ReadonlyMap<string, number>, what: string): void {
  for (const { name, disks } of report.points) {
    for (const disk of disks) {
      const windows = truth.get(`${name.pointId} ${disk.name}`) ?? 0;
      const where = `${what}: ${name.pointId} ${disk.name}`;
      assert.equal(disk.verdict === "sound", windows === 0, where);
      assert.equal(disk.damagedBytes, windows * windowBytes, where);
      const named = disk.ranges.reduce((bytes, range) => bytes + range.lengthBytes, 0);
      assert.equal(named, disk.damagedBytes, where);
    }
  }
}

test("verify: a vault that is whole is sound, and everything in it was read once", async () => {
  const objects = await buildVault();
  const { report } = await verify(createMemoryStore(objects));
  assert.equal(report.verdict, "sound");
  assert.equal(report.points.length, 3);
  assert.equal(report.objectsChecked, objects.length);
  const sealed = objects.filter(([name]) => !name.startsWith("points/"));
  assert.equal(
    report.bytesRead,
    sealed.reduce((sum, [, bytes]) => sum + bytes.byteLength, 0),
  );
  assert.deepEqual(report.badObjects, []);
});

test("verify: a flipped bit in any object is named, with what it touches and nothing else", async () => {
  const objects = await buildVault();
  const prng = createPrng(testSeed() + 1);
  for (const [name, bytes] of sliceOf(objects, objectsInSlice)) {
    const flipped = bytes.slice();
    const at = prng.below(flipped.byteLength);
    flipped[at] = (flipped[at] ?? 0) ^ (1 << prng.below(8));
    const others = objects.filter(([other]) => other !== name);
    const { report, truth } = await verify(createMemoryStore([...others, [name, flipped]]));
    const what = `${name} byte ${at}`;
    assert.equal(report.verdict, "damaged", what);
    assert.deepEqual(
      report.badObjects.filter(({ verdict }) => verdict === "damaged").map((bad) => bad.name),
      [name],
      what,
    );
    assertTrue(report, truth, what);
  }
});

test("verify: an object that is gone is named, with what it touches and nothing else", async () => {
  const objects = await buildVault();
  // Nothing names the newest part of the inventory: its removal cannot show.
  const newestPart = objects.findLast(([name]) => name.startsWith("inventory/"))?.[0];
  for (const [name] of sliceOf(objects, objectsInSlice)) {
    if (name === newestPart) continue;
    const others = objects.filter(([other]) => other !== name);
    const { report, truth } = await verify(createMemoryStore(others));
    assert.equal(report.verdict, "damaged", name);
    const hash = name.slice(-64);
    assert.ok(
      report.badObjects.some((bad) => bad.name.endsWith(hash)),
      name,
    );
    assertTrue(report, truth, name);
  }
});

test("verify: one point alone is judged by what it needs alone", async () => {
  const objects = await buildVault();
  const store = createMemoryStore(objects);
  const vault = await openTestVault({ store });
  const names = await vault.listPoints("other");
  await vault[Symbol.asyncDispose]();
  const { report } = await verify(store, names);
  assert.equal(report.verdict, "sound");
  assert.equal(report.points.length, 1);
  const everything = await verify(store);
  assert.ok(report.bytesRead < everything.report.bytesRead);
});

test("verify: what cannot be read just now is unknown, not damaged", async () => {
  const store = new FaultyStore(createMemoryStore(await buildVault()));
  const error = new KluisError("StoreUnavailable", "Cannot reach the store: the test broke it");
  store.inject({ method: "get", name: /^packs\//, times: 100, fault: { kind: "error", error } });
  await using vault = await openTestVault({ store });
  const report = await verifyVault({
    store,
    keys: testKeys,
    vault,
    clock: systemClock,
    workers: 1,
  });
  assert.equal(report.verdict, "unknown");
  assert.ok(report.badObjects.every(({ verdict }) => verdict === "unknown"));
  assert.ok(report.points.some(({ verdict }) => verdict === "unknown"));
});

test("verify: stops when it is cancelled", async () => {
  const store = createMemoryStore(await buildVault());
  await using vault = await openTestVault({ store });
  const reason = new KluisError("Cancelled", "Cannot finish: the test cancelled it");
  const signal = AbortSignal.abort(reason);
  const options = { store, keys: testKeys, vault, clock: systemClock, workers: 1, signal };
  await assert.rejects(verifyVault(options), (thrown) => thrown === reason);
});
