// Goal: a collection frees what deleted points alone referred to, copies what is needed out of packs
// that go, and leaves every other point readable byte for byte, also for a vault that was open.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { systemRandom } from "#base/random.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { beatName } from "#formats/store-names.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ByteRange, ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import { HookedStore } from "#testing/hooked-store.ts";
import { assertVaultSound, countPackBytes, deleteKept, writeChain } from "#testing/gc-points.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";
import { runSteps } from "./run-steps.ts";
import { putLease } from "./session-protocol.ts";

const mib = 1024 * 1024;
const random = createSeededRandom("collect vault");

/** A chain of points of one item, each of which rewrites a part of the disk. */
async function writePoints(vault: Vault, itemId: string, points: number): Promise<KeptPoint[]> {
  const change = { runBytes: mib, pages: 20 };
  return await writeChain(vault, { itemId, points, random, diskMib: 5, change });
}

async function namesBelow(store: ObjectStore, prefix: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(prefix)) names.push(name);
  return names;
}

async function assertSound(store: ObjectStore, kept: readonly KeptPoint[]): Promise<void> {
  await using vault = await openTestVault({ store });
  assert.equal((await vault.listPoints()).length, kept.length);
  for (const point of kept) await assertPointReads(vault, point);
  await assertVaultSound(store, vault);
}

test("collect vault: frees what deleted points alone needed, and keeps the rest", async () => {
  const store = createMemoryStore();
  await using vault = await openTestVault({ store });
  const kept = await writePoints(vault, "vm", 6);
  const others = await writePoints(vault, "other", 2);
  const before = await countPackBytes(store);
  for (const point of kept.splice(1, 4)) await deleteKept(vault, point);
  await assertSound(store, [...kept, ...others]);
  const options = { allowMassDeletion: true, unusedShare: 0 };
  const planned = await vault.collect({ ...options, dryRun: true });
  assert.equal(planned.end, "planned");
  assert.equal(await countPackBytes(store), before);
  assert.deepEqual(await namesBelow(store, "leases/"), []);
  const report = await vault.collect(options);
  assert.equal(report.end, "done");
  const after = await countPackBytes(store);
  console.log(
    `${before} bytes of packs, ${after} after`,
    JSON.stringify({ ...report, plan: null }),
  );
  assert.ok(after < before - mib / 2, "much was freed");
  await assertSound(store, [...kept, ...others]);
  for (const prefix of ["leases/", "condemned/", "decisions/", "deleted/"]) {
    assert.deepEqual(await namesBelow(store, prefix), []);
  }
  const next = await vault.collect(options);
  assert.equal(next.end, "nothing-to-do");
  const last = kept.at(-1);
  const disk = last?.disks[0]?.snapshot() as MemoryDisk;
  disk.write(0, random.bytes(mib));
  kept.push(
    await backUp(vault, { itemId: "vm", number: 99, disks: [disk], ...(last && { base: last }) }),
  );
  await assertSound(store, [...kept, ...others]);
});

test("collect vault: a vault that was open all the time reads and writes on", async () => {
  const store = createMemoryStore();
  await using open = await openTestVault({ store });
  await using other = await openTestVault({ store });
  const kept = await writePoints(open, "vm", 5);
  const [first, ...rest] = kept;
  assert.ok(first);
  await deleteKept(other, first);
  const report = await other.collect({ allowMassDeletion: true, unusedShare: 0 });
  assert.equal(report.end, "done");
  for (const point of rest) await assertPointReads(open, point);
  const base = rest.at(-1);
  const disk = base?.disks[0]?.snapshot() as MemoryDisk;
  disk.write(0, first.disks[0]?.bytes().subarray(0, mib) ?? new Uint8Array());
  rest.push(await backUp(open, { itemId: "vm", number: 9, disks: [disk], ...(base && { base }) }));
  await assertSound(store, rest);
});

test("collect vault: an increment whose base was deleted is told to run again", async () => {
  const store = createMemoryStore();
  await using vault = await openTestVault({ store });
  const [only] = await writePoints(vault, "vm", 1);
  assert.ok(only);
  await deleteKept(vault, only);
  const disk = only.disks[0]?.snapshot() as MemoryDisk;
  await assert.rejects(
    backUp(vault, { itemId: "vm", number: 2, disks: [disk], base: only }),
    (error) => isKluisError(error, "BackupFenced"),
  );
  assert.deepEqual(await namesBelow(store, "leases/"), []);
  const point = { item: "0".repeat(32), pointId: "000000000001-0000000000000001" };
  await assert.rejects(vault.deletePoint(point), (error) =>
    isKluisError(error, "RecoveryPointNotFound"),
  );
});

test("collect vault: a session whose host had its clock ahead is ended too once it is dead", async () => {
  const store = createMemoryStore();
  await using vault = await openTestVault({ store });
  const kept = await writePoints(vault, "vm", 2);
  const [first] = kept.splice(0, 1);
  assert.ok(first);
  await deleteKept(vault, first);
  const id = "00000000000000aa";
  const commitKey = `points/${"0".repeat(32)}/000000000001-0000000000000001`;
  const deps = { store, keys: testKeys, clock: systemClock, random: systemRandom };
  await runSteps(putLease({ id, purpose: "backup", commitKey }), deps);
  const yearMs = 365 * 24 * 60 * 60 * 1000;
  await store.put(beatName(id, systemClock.nowMs() + 10 * yearMs), [new Uint8Array([1])]);
  const report = await vault.collect({ allowMassDeletion: true, unusedShare: 0 });
  assert.equal(report.end, "done");
  await assertSound(store, kept);
});

test("collect vault: a collection on the object that backs up is refused, not let loose", async () => {
  const store = createMemoryStore();
  await using vault = await openTestVault({ store });
  const disk = new MemoryDisk(mib);
  disk.write(0, random.bytes(mib));
  const backup = backUp(vault, { itemId: "vm", number: 1, disks: [disk] });
  await assert.rejects(vault.collect(), /does not collect while it backs up/);
  const kept = [await backup];
  const collection = vault.collect();
  const late = backUp(vault, { itemId: "vm", number: 2, disks: [disk] });
  await assert.rejects(late, /does not back up while it collects/);
  assert.equal((await collection).end, "nothing-to-do");
  await assertSound(store, kept);
});

test("collect vault: a segment that another collection removes under it is no damage", async () => {
  const inner = createMemoryStore();
  /** Loses the index segment that is read first. */
  class Removing extends HookedStore {
    override async get(name: string, range?: ByteRange): Promise<Uint8Array> {
      if (name.startsWith("index/")) await inner.remove(name);
      return await super.get(name, range);
    }
  }
  await using late = await openTestVault({ store: new Removing(inner) });
  await using vault = await openTestVault({ store: inner });
  await writePoints(vault, "vm", 1);
  await assert.rejects(late.collect(), (error) => isKluisError(error, "Busy"));
  assert.deepEqual(await namesBelow(inner, "leases/"), []);
  assert.deepEqual(await namesBelow(inner, "condemned/"), []);
});

test("collect vault: backups that commit between its listings do not end it", async () => {
  const inner = createMemoryStore();
  await using other = await openTestVault({ store: inner });
  const late: KeptPoint[] = [];
  /** Commits a backup after every listing of the index while the collection runs. */
  class Committing extends HookedStore {
    isCollecting = false;
    override async *list(prefix: string): AsyncGenerator<ObjectInfo> {
      yield* super.list(prefix);
      if (!this.isCollecting || prefix !== "index/") return;
      const number = late.length;
      const disk = new MemoryDisk(mib);
      disk.write(0, random.bytes(mib));
      late.push(await backUp(other, { itemId: `late ${number}`, number, disks: [disk] }));
    }
  }
  const store = new Committing(inner);
  await using vault = await openTestVault({ store });
  const [first, ...kept] = await writePoints(vault, "vm", 3);
  assert.ok(first);
  await deleteKept(vault, first);
  store.isCollecting = true;
  const report = await vault.collect({ allowMassDeletion: true, unusedShare: 0 });
  store.isCollecting = false;
  assert.equal(report.end, "done");
  assert.ok(late.length >= 2, "a backup committed beside each listing");
  await assertSound(inner, [...kept, ...late]);
});
