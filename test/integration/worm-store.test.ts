// Goal: a WORM store on radosgw's COMPLIANCE mode keeps the promises of the store port, and what it
// has locked stays readable under its name, whatever the holder of the writer's credentials does to
// either bucket.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
  DeleteObjectCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
  PutObjectRetentionCommand,
} from "@aws-sdk/client-s3";
import { after, before, test } from "node:test";

import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { openWormStore } from "#drivers/store/s3-worm-store.ts";
import { parseStoreLocation, type S3Location } from "#drivers/store/store-location.ts";
import { deletedName, packName, pointName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { buildContainer } from "#vault/container/build-container.ts";
import { systemRandom } from "#base/random.ts";
import { startRadosgw, type Radosgw } from "#testing/radosgw.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { listAll, testObjectStore } from "#testing/suites/object-store-suite.ts";

const lockedBucket = "worm-locked";
const controlBucket = "worm-control";
const policy = { periodMs: 600_000, generationMs: 60_000 };
const shortPolicy = { periodMs: 3000, generationMs: 1000 };
const random = createSeededRandom("worm store");
let gateway: Radosgw;
let prefixes = 0;

before(async () => {
  gateway = await startRadosgw();
  await gateway.createBucket(lockedBucket, "locked");
  await gateway.createBucket(controlBucket);
});
after(() => gateway[Symbol.asyncDispose]());

function placeAt(prefix: string, control = `s3://${controlBucket}/${prefix}`): S3Location {
  const text = `s3://${lockedBucket}/${prefix}?endpoint=${gateway.endpoint}&control=${control}`;
  const location = parseStoreLocation(text, "/");
  assert.ok(location.kind === "s3");
  return location;
}

async function createStore(prefix: string, given = policy): Promise<ObjectStore> {
  const { credentials } = gateway;
  return await openWormStore(placeAt(prefix), { credentials, create: true, policy: given });
}

function openStore(prefix: string, control?: string): Promise<ObjectStore> {
  return openWormStore(placeAt(prefix, control), { credentials: gateway.credentials });
}

testObjectStore("WORM store", {
  open: async () => {
    const prefix = `suite/${prefixes++}`;
    return {
      store: await createStore(prefix),
      openAgain: () => openStore(prefix),
      async [Symbol.asyncDispose]() {},
    };
  },
});

/** A pack, as far as a store looks. */
function somePack(sizeBytes: number): { readonly name: string; readonly content: Uint8Array } {
  const content = random.bytes(sizeBytes);
  return { name: packName(createHash("sha256").update(content).digest()), content };
}

function someManifest(): { readonly name: string; readonly content: Uint8Array } {
  const { bytes } = buildContainer("manifest", random.bytes(500), {
    keys: testKeys,
    random: systemRandom,
  });
  const point = `${toHex(random.bytes(6))}-${toHex(random.bytes(8))}`;
  return { name: pointName(toHex(random.bytes(16)), point), content: bytes };
}

/** All versions of what the vault has under a name in the locked place. */
async function versionsOf(prefix: string, name: string) {
  const Prefix = `${prefix}/${name}`;
  const answer = await gateway.client.send(
    new ListObjectVersionsCommand({ Bucket: lockedBucket, Prefix }),
  );
  return answer.Versions ?? [];
}

/** What the holder of the credentials can do to an object without a key of the vault. */
async function attack(prefix: string, name: string): Promise<void> {
  const { client } = gateway;
  for (const { Key, VersionId } of await versionsOf(prefix, name)) {
    assert.ok(Key !== undefined && VersionId !== undefined);
    const at = { Bucket: lockedBucket, Key };
    await client.send(new DeleteObjectCommand(at));
    await client.send(new PutObjectCommand({ ...at, Body: random.bytes(500) }));
    await client.send(new PutObjectCommand({ ...at, Body: random.bytes(9) }));
    await client.send(new DeleteObjectCommand(at));
    const isForbidden = (error: Error): boolean =>
      /object lock|shortens|retention/.test(error.message);
    const version = { ...at, VersionId };
    await assert.rejects(client.send(new DeleteObjectCommand(version)), isForbidden);
    const bypass = { ...version, BypassGovernanceRetention: true };
    await assert.rejects(client.send(new DeleteObjectCommand(bypass)), isForbidden);
    for (const Mode of ["COMPLIANCE", "GOVERNANCE"] as const) {
      const Retention = { Mode, RetainUntilDate: new Date(Date.now() + 30_000) };
      const cut = new PutObjectRetentionCommand({ ...bypass, Retention });
      await assert.rejects(client.send(cut), isForbidden);
    }
  }
}

test("WORM store: a locked object reads as it was put, hidden and overwritten or not", async () => {
  const store = await createStore("hidden");
  const { name, content } = somePack(100_000);
  assert.equal(await store.put(name, [content]), "created");
  assert.equal(await store.put(name, [content]), "exists");
  assert.equal(
    (await versionsOf("hidden", name)).length,
    1,
    "a second put leaves no second version",
  );
  await attack("hidden", name);
  for (const one of [store, await openStore("hidden"), await openStore("hidden", "none")]) {
    assert.ok(bytesEqual(await one.get(name), content));
    const range = { offsetBytes: 4000, lengthBytes: 300 };
    assert.ok(bytesEqual(await one.get(name, range), content.subarray(4000, 4300)));
    assert.equal((await one.stat(name))?.sizeBytes, content.byteLength);
    assert.deepEqual(await listAll(one, "packs/"), new Map([[name, content.byteLength]]));
    await assert.rejects(one.get(name, { offsetBytes: 100_000, lengthBytes: 1 }), (error) =>
      isKluisError(error, "ObjectCorrupt"),
    );
  }
  await assert.rejects(store.remove(name), (error) => isKluisError(error, "ObjectLocked"));
});

test("WORM store: of several versions the one whose hash is the name counts, also a later one", async () => {
  const store = await createStore("later");
  const { name, content } = somePack(5000);
  const bad = { Bucket: lockedBucket, Key: `later/${name}`, Body: random.bytes(5000) };
  await gateway.client.send(new PutObjectCommand(bad));
  assert.equal(await store.put(name, [content]), "created");
  for (const one of [store, await openStore("later")]) {
    assert.ok(bytesEqual(await one.get(name), content));
  }
});

test("WORM store: content under another's name is refused", async () => {
  const store = await createStore("misnamed");
  const { name } = somePack(100);
  await assert.rejects(store.put(name, [random.bytes(100)]), (error) =>
    isKluisError(error, "ObjectCorrupt"),
  );
  assert.equal(await store.stat(name), undefined);
});

test("WORM store: a committed manifest outlives both buckets' attacker, and the control place", async () => {
  const store = await createStore("claims");
  const { name, content } = someManifest();
  assert.equal(await store.put(name, [content]), "created");
  assert.equal(await store.put(name, [content]), "exists");
  assert.equal(await store.put(name, [someManifest().content]), "exists");
  await attack("claims", name);
  const control = { Bucket: controlBucket, Key: `claims/${name}` };
  const tombstone = buildContainer("tombstone", Uint8Array.of(1), {
    keys: testKeys,
    random: systemRandom,
  });
  await gateway.client.send(new DeleteObjectCommand(control));
  await gateway.client.send(new PutObjectCommand({ ...control, Body: tombstone.bytes }));
  const mark = { Bucket: controlBucket, Key: `claims/${deletedName(name)}`, Body: "forged" };
  await gateway.client.send(new PutObjectCommand(mark));
  for (const one of [store, await openStore("claims"), await openStore("claims", "none")]) {
    assert.ok(bytesEqual(await one.get(name), content));
    assert.deepEqual(await listAll(one, "points/"), new Map([[name, content.byteLength]]));
    assert.deepEqual(await listAll(one, "deleted/"), new Map(), "the forged mark hides nothing");
    assert.equal(await one.stat(deletedName(name)), undefined);
  }
  assert.equal(await store.put(name, [tombstone.bytes]), "exists", "what is locked is not fenced");
  const isLocked = (error: unknown): boolean => isKluisError(error, "ObjectLocked");
  await assert.rejects(store.remove(name), isLocked);
  await assert.rejects(store.put(deletedName(name), [Uint8Array.of(1)]), isLocked);
});

test("WORM store: without its control place it is read, and not written", async () => {
  const store = await createStore("gone");
  const { name, content } = someManifest();
  await store.put(name, [content]);
  await store.put("leases/0011223344556677", [Uint8Array.of(1)]);
  for (const control of ["none", "s3://worm-nowhere/x"]) {
    const rescue = await openStore("gone", control);
    assert.ok(bytesEqual(await rescue.get(name), content));
    assert.deepEqual([...(await listAll(rescue)).keys()], [name]);
    assert.equal(await rescue.stat("leases/0011223344556677"), undefined);
    const { name: fresh, content: bytes } = someManifest();
    await assert.rejects(rescue.put(fresh, [bytes]), (error) =>
      isKluisError(error, control === "none" ? "StoreDenied" : "StoreNotFound"),
    );
  }
});

test("WORM store: a fence takes the name of a session that has not committed, and is never locked", async () => {
  const store = await createStore("fence");
  const { name, content } = someManifest();
  const tombstone = buildContainer("tombstone", Uint8Array.of(1), {
    keys: testKeys,
    random: systemRandom,
  });
  assert.equal(await store.put(name, [tombstone.bytes]), "created");
  assert.equal(await store.put(name, [content]), "exists");
  assert.ok(bytesEqual(await store.get(name), tombstone.bytes));
  assert.equal((await versionsOf("fence", name)).length, 0);
  await store.remove(name);
  assert.equal(await store.stat(name), undefined);
});

test("WORM store: racing commits and fences of one name have one winner, which alone is locked", async () => {
  const store = await createStore("race");
  const other = await openStore("race");
  for (let round = 0; round < 10; round++) {
    const { name, content } = someManifest();
    const contents = [content, someManifest().content];
    for (let at = 0; at < 2; at++) {
      const deps = { keys: testKeys, random: systemRandom };
      contents.push(buildContainer("tombstone", Uint8Array.of(1), deps).bytes);
    }
    const outcomes = await Promise.all(
      contents.map((bytes, at) => (at % 2 === 0 ? store : other).put(name, [bytes])),
    );
    assert.equal(outcomes.filter((outcome) => outcome === "created").length, 1);
    const winner = contents[outcomes.indexOf("created")];
    assert.ok(winner !== undefined && bytesEqual(await other.get(name), winner));
    const isManifest = outcomes.indexOf("created") < 2;
    assert.equal((await versionsOf("race", name)).length, isManifest ? 1 : 0);
  }
});

test("WORM store: a commit that was cut before its copy is completed, and locks end later on demand", async () => {
  const store = await createStore("cut");
  const { locks } = store;
  assert.ok(locks !== undefined);
  const { name, content } = someManifest();
  const control = { Bucket: controlBucket, Key: `cut/${name}`, Body: content };
  await gateway.client.send(new PutObjectCommand(control));
  assert.ok(bytesEqual(await store.get(name), content));
  const nowMs = await locks.nowMs();
  assert.ok(Math.abs(nowMs - Date.now()) < 3000);
  assert.ok(await locks.endsBefore(name, nowMs), "it is not locked yet");
  await locks.extend(name, nowMs + 120_000);
  assert.ok(bytesEqual(await (await openStore("cut", "none")).get(name), content));
  for (const one of [locks, (await openStore("cut")).locks]) {
    assert.equal(await one?.endsBefore(name, nowMs + 120_000), false);
    assert.equal(await one?.endsBefore(name, nowMs + 122_000), true);
  }
  await locks.extend(name, nowMs + 240_000);
  await locks.extend(name, nowMs + 60_000);
  const again = (await openStore("cut")).locks;
  assert.equal(await again?.endsBefore(name, nowMs + 240_000), false, "a lock is never shortened");
});

test("WORM store: what has expired is removed with every version; what others locked stays behind", async () => {
  const store = await createStore("expired", shortPolicy);
  const pack = somePack(3000);
  const manifest = someManifest();
  await store.put(pack.name, [pack.content]);
  await store.put(manifest.name, [manifest.content]);
  const junk = { Bucket: lockedBucket, Key: `expired/${pack.name}`, Body: "junk" };
  await gateway.client.send(new PutObjectCommand(junk));
  for (const { name } of [pack, manifest]) {
    await assert.rejects(store.remove(name), (error) => isKluisError(error, "ObjectLocked"));
  }
  await new Promise((resolve) => setTimeout(resolve, 5500));
  await store.put(deletedName(manifest.name), [Uint8Array.of(1)]);
  assert.equal((await listAll(store, "deleted/")).size, 1);
  for (const { name } of [pack, manifest]) {
    await store.remove(name);
    assert.equal(await store.stat(name), undefined);
    assert.deepEqual(await versionsOf("expired", name), []);
  }
});

test("WORM store: a bucket without object lock, another policy and a missing vault are refused", async () => {
  const { credentials } = gateway;
  await gateway.createBucket("worm-plain");
  const text = `s3://worm-plain/x?endpoint=${gateway.endpoint}&control=s3://${controlBucket}/x`;
  const plain = parseStoreLocation(text, "/");
  assert.ok(plain.kind === "s3");
  await assert.rejects(openWormStore(plain, { credentials, create: true, policy }), (error) =>
    isKluisError(error, "StoreUnsuitable"),
  );
  await assert.rejects(openStore("no-vault-here"), (error) => isKluisError(error, "StoreNotFound"));
  await createStore("again");
  await createStore("again");
  await assert.rejects(createStore("again", shortPolicy), (error) =>
    isKluisError(error, "ArgumentInvalid"),
  );
  const photo = { Bucket: lockedBucket, Key: "foreign/My Photo.jpg", Body: "x" };
  await gateway.client.send(new PutObjectCommand(photo));
  await assert.rejects(createStore("foreign"), (error) => isKluisError(error, "StoreForeign"));
});

test("WORM store: an attacker's shorter policy is not the store's", async () => {
  await createStore("policy");
  const forged = Buffer.from(
    `{"format":"kluis-immutability","version":1,"periodMs":1,"generationMs":1}\n`,
  );
  const sha256 = createHash("sha256").update(forged).digest("hex");
  const Key = `policy/immutability/${sha256}`;
  await gateway.client.send(new PutObjectCommand({ Bucket: lockedBucket, Key, Body: forged }));
  assert.deepEqual((await openStore("policy")).locks?.policy, policy);
});
