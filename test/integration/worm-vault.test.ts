// Goal: a vault on a WORM store (radosgw, COMPLIANCE mode) loses no recovery point to an attacker with
// the writer's credentials, locks what points need for the whole period, and frees what has expired
// and nothing else.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
  DeleteObjectCommand,
  HeadObjectCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
  PutObjectRetentionCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { after, before, test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { openWormStore } from "#drivers/store/s3-worm-store.ts";
import { parseStoreLocation } from "#drivers/store/store-location.ts";
import type { LockPolicy } from "#formats/lock-policy.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { type Radosgw, startRadosgw } from "#testing/radosgw.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, type KeptPoint, pointIdOf } from "#testing/vault-points.ts";
import { listAll } from "#testing/suites/object-store-suite.ts";

const lockedBucket = "worm-locked";
const controlBucket = "worm-control";
const mib = 1024 * 1024;
const longPolicy: LockPolicy = { periodMs: 600_000, generationMs: 60_000 };
const random = createSeededRandom("worm vault");
let gateway: Radosgw;

before(async () => {
  gateway = await startRadosgw();
  await gateway.createBucket(lockedBucket, "locked");
  await gateway.createBucket(controlBucket);
});
after(() => gateway[Symbol.asyncDispose]());

async function openStore(
  prefix: string,
  options: { readonly policy?: LockPolicy; readonly control?: string } = {},
): Promise<ObjectStore> {
  const { policy, control = `s3://${controlBucket}/${prefix}` } = options;
  const text = `s3://${lockedBucket}/${prefix}?endpoint=${gateway.endpoint}&control=${control}`;
  const location = parseStoreLocation(text, "/");
  assert.ok(location.kind === "s3");
  const { credentials } = gateway;
  const create = policy !== undefined;
  return await openWormStore(location, { credentials, create, ...(policy && { policy }) });
}

/** A chain of points, each of which rewrites a part of the disk. */
async function writeChain(store: ObjectStore, points: number): Promise<KeptPoint[]> {
  await using vault = await openTestVault({ store });
  const disk = new MemoryDisk(6 * mib);
  disk.write(0, random.bytes(4 * mib));
  const kept: KeptPoint[] = [];
  for (let number = 1; number <= points; number++) {
    const base = kept.at(-1);
    kept.push(await backUp(vault, { itemId: "vm", number, disks: [disk], ...(base && { base }) }));
    disk.write(random.integer(0, 3) * mib, random.bytes(mib));
  }
  return kept;
}

async function assertAllRead(store: ObjectStore, kept: readonly KeptPoint[]): Promise<void> {
  await using vault = await openTestVault({ store });
  const ids = (await vault.listPoints()).map(({ pointId }) => pointId);
  assert.deepEqual(
    ids,
    kept.map(({ manifest }) => manifest.pointId),
  );
  for (const point of kept) await assertPointReads(vault, point);
}

async function versionsOf(client: S3Client, Bucket: string, Prefix: string) {
  const answer = await client.send(new ListObjectVersionsCommand({ Bucket, Prefix }));
  assert.notEqual(answer.IsTruncated, true);
  return (answer.Versions ?? []).map(({ Key = "", VersionId = "" }) => ({ Key, VersionId }));
}

/** Hides, overwrites and tries to remove and to unlock every object of the locked place. */
async function attackLocked(prefix: string): Promise<number> {
  const { client } = gateway;
  const versions = await versionsOf(client, lockedBucket, `${prefix}/`);
  for (const { Key, VersionId } of versions) {
    const at = { Bucket: lockedBucket, Key };
    const isRefused = (error: Error): boolean => error.name === "AccessDenied";
    const version = { ...at, VersionId, BypassGovernanceRetention: true };
    await assert.rejects(client.send(new DeleteObjectCommand(version)), isRefused);
    const Retention = {
      Mode: "GOVERNANCE" as const,
      RetainUntilDate: new Date(Date.now() + 30_000),
    };
    const cut = new PutObjectRetentionCommand({ ...version, Retention });
    await assert.rejects(client.send(cut), isRefused);
    const way = random.integer(0, 2);
    if (way > 0) await client.send(new PutObjectCommand({ ...at, Body: random.bytes(700) }));
    if (way < 2) await client.send(new DeleteObjectCommand(at));
  }
  return versions.length;
}

/** Forges a deletion mark and a tombstone for each manifest, or wipes the control place. */
async function attackControl(prefix: string, how: "wipe" | "forge"): Promise<void> {
  const { client } = gateway;
  for (const { Key } of await versionsOf(client, controlBucket, `${prefix}/`)) {
    const at = { Bucket: controlBucket, Key };
    await client.send(new DeleteObjectCommand(at));
    if (how === "wipe") continue;
    const mark = Key.replace("/points/", "/deleted/");
    await client.send(new PutObjectCommand({ ...at, Body: random.bytes(113) }));
    await client.send(new PutObjectCommand({ ...at, Key: mark, Body: random.bytes(200) }));
  }
}

for (const how of ["forge", "wipe"] as const) {
  test(`WORM vault: every point survives the writer's credentials (control: ${how})`, async () => {
    const store = await openStore(how, { policy: longPolicy });
    const kept = await writeChain(store, 3);
    const attacked = await attackLocked(how);
    assert.ok(attacked > 8, "there were objects to attack");
    await attackControl(how, how);
    await assertAllRead(await openStore(how), kept);
    await assertAllRead(await openStore(how, { control: "none" }), kept);
    await assertAllRead(await openStore(how, { control: "s3://worm-nowhere/x" }), kept);
    // Life goes on: a collection finds nothing missing and frees nothing, an increment builds on it.
    const again = await openStore(how);
    await using vault = await openTestVault({ store: again });
    const base = kept.at(-1);
    const disk = base?.disks[0]?.snapshot();
    assert.ok(base !== undefined && disk !== undefined);
    disk.write(mib, random.bytes(50_000));
    kept.push(await backUp(vault, { itemId: "vm", number: 9, disks: [disk], base }));
    const before = await listAll(again, "packs/");
    await vault.collect({ allowMassDeletion: true });
    assert.deepEqual(await listAll(again, "packs/"), before);
    await assertAllRead(await openStore(how), kept);
  });
}

test("WORM vault: deleting a locked point is ObjectLocked, and leaves it as it was", async () => {
  const store = await openStore("delete", { policy: longPolicy });
  const kept = await writeChain(store, 2);
  await using vault = await openTestVault({ store });
  for (const point of await vault.listPoints()) {
    await assert.rejects(vault.deletePoint(point), (error) => {
      assert.ok(isKluisError(error, "ObjectLocked"));
      assert.match(error.message, /^Cannot delete recovery point ".*": it is locked until 20/);
      return true;
    });
  }
  assert.deepEqual(await listAll(store, "deleted/"), new Map());
  await assertAllRead(store, kept);
});

/** Until when each object of the vault is locked, by the store itself. */
async function lockEnds(prefix: string): Promise<Map<string, number>> {
  const ends = new Map<string, number>();
  for (const { Key, VersionId } of await versionsOf(gateway.client, lockedBucket, `${prefix}/`)) {
    const head = new HeadObjectCommand({ Bucket: lockedBucket, Key, VersionId });
    const { ObjectLockMode, ObjectLockRetainUntilDate: until } = await gateway.client.send(head);
    assert.equal(ObjectLockMode, "COMPLIANCE", Key);
    ends.set(Key.slice(prefix.length + 1), until?.getTime() ?? 0);
  }
  return ends;
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test("WORM vault: an acknowledged backup is locked for the period, with all that it builds on; garbage expires, is collected, and nothing else", async () => {
  const policy = { periodMs: 12_000, generationMs: 1000 };
  const store = await openStore("life", { policy });
  const disk = new MemoryDisk(6 * mib);
  disk.write(0, random.bytes(4 * mib));
  await using vault = await openTestVault({ store });
  const first = await backUp(vault, { itemId: "vm", number: 1, disks: [disk] });
  const other = new MemoryDisk(2 * mib);
  other.write(0, random.bytes(2 * mib));
  const garbage = await backUp(vault, { itemId: "other", number: 2, disks: [other] });
  await sleep(4000);
  disk.write(mib, random.bytes(100_000));
  const startedMs = Date.now();
  const second = await backUp(vault, { itemId: "vm", number: 3, disks: [disk], base: first });
  // All packs are needed by some point: each is locked for a period from the commit.
  for (const [name, endMs] of await lockEnds("life")) {
    if (parseStoreName(name) === undefined) continue;
    assert.ok(
      endMs >= startedMs + policy.periodMs - 2000,
      `${name} is locked for too short a time`,
    );
  }
  const points = await vault.listPoints();
  const unwanted = points.find(({ pointId }) => pointId === garbage.manifest.pointId);
  assert.ok(unwanted !== undefined);
  await assert.rejects(vault.deletePoint(unwanted), (error) => isKluisError(error, "ObjectLocked"));
  const limit = Date.now() + 60_000;
  while (!(await isDeleted())) {
    assert.ok(Date.now() < limit, "its lock ends at last");
    await sleep(500);
  }
  const listed = await listAll(store, "packs/");
  const early = await vault.collect({ allowMassDeletion: true });
  assert.deepEqual(await listAll(store, "packs/"), listed, "what is locked is not collected");
  assert.equal(early.plan?.garbageBytes ?? 0, 0);
  let freed = false;
  while (!freed) {
    assert.ok(Date.now() < limit, "what is garbage is freed at last");
    await sleep(1000);
    await using fresh = await openTestVault({ store: await openStore("life") });
    freed = ((await fresh.collect({ allowMassDeletion: true })).plan?.garbageBytes ?? 0) > 0;
  }
  const left = await listAll(await openStore("life"), "packs/");
  assert.ok(left.size < listed.size && left.size > 0);
  await assertAllRead(await openStore("life"), [first, second]);

  async function isDeleted(): Promise<boolean> {
    assert.ok(unwanted !== undefined);
    try {
      await vault.deletePoint(unwanted);
      return true;
    } catch (error) {
      if (isKluisError(error, "ObjectLocked")) return false;
      throw error;
    }
  }
});

test("WORM vault: a commit that was cut off before its copy is locked by the next backup", async () => {
  const store = await openStore("cut", { policy: longPolicy });
  const [first] = await writeChain(store, 1);
  assert.ok(first !== undefined);
  // As a crash leaves it: the manifest of the control place, and no copy. Its bytes are another's here.
  const [name = ""] = (await listAll(store, "points/")).keys();
  const bytes = await store.get(name);
  const item = name.slice(0, name.lastIndexOf("/"));
  const cut = `${item}/${pointIdOf(7)}`;
  const at = { Bucket: controlBucket, Key: `cut/${cut}`, Body: bytes };
  await gateway.client.send(new PutObjectCommand(at));
  await using vault = await openTestVault({ store });
  await vault.extendLocks();
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const copies = await versionsOf(gateway.client, lockedBucket, `cut/${cut}/`);
  assert.deepEqual(
    copies.map(({ Key }) => Key),
    [`cut/${cut}/${sha256}`],
  );
});
