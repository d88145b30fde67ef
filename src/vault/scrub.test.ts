// Goal: scrubs within a budget come by every object in turn, remember it in the vault, find what is
// damaged or missing, and say the truth about what was never checked, for each depth apart.
// Method: a small vault in memory; scrubs of one object each until all were read; then damage, a
// store that does not answer, and objects that come after their range was read; objects under the
// hash of what they hold which do not open, or only with a key that is not at hand.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { indexSegmentName, parseStoreName, slotPrefix } from "#formats/store-names.ts";
import { flipBit, flipObjectBit } from "#testing/damage.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { backUp } from "#testing/vault-points.ts";
import { encodeIndexSegment } from "#formats/index-segment.ts";
import { buildContainer } from "./container/build-container.ts";
import { readFindings } from "./inventory/findings.ts";
import { deriveVaultKeys } from "./keys/vault-keys.ts";
import { createKeyFileSecret, createRecoveryKey } from "./key-secret.ts";
import { scrubVault, type ScrubReport } from "./scrub.ts";
import { createVaultFiles, openVaultFiles } from "./vault-files.ts";

const random = createSeededRandom("scrub");
const clock = new ManualClock();

async function addPoint(store: ObjectStore, number: number): Promise<void> {
  await using vault = await openTestVault({ store });
  const disk = new MemoryDisk(600 * 1024);
  disk.write(0, random.bytes(5000));
  await backUp(vault, { itemId: `disk ${number}`, number, disks: [disk] });
}

async function scrub(
  store: ObjectStore,
  bytes = 1,
  depth: ScrubReport["depth"] = "objects",
): Promise<ScrubReport> {
  return await scrubVault({
    store,
    keys: testKeys,
    clock,
    depth,
    workers: 1,
    budget: { bytes, durationMs: Infinity },
  });
}

async function namesOf(store: ObjectStore, prefix: string): Promise<readonly string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(prefix)) names.push(name);
  return names.sort();
}

test("scrub: comes by every object in turn and remembers it for every host", async () => {
  const store = createMemoryStore();
  await addPoint(store, 1);
  const { objectsListed } = await scrub(store, 1);
  for (let run = 2; run <= objectsListed; run++) {
    const report = await scrub(store);
    assert.equal(report.objectsChecked, 1);
    assert.equal(report.neverChecked, objectsListed - run);
    assert.equal(report.verdict, "sound");
  }
  await addPoint(store, 2);
  const more = await scrub(store);
  // The run itself may have come by one of them.
  const fresh = more.objectsListed - objectsListed;
  assert.ok([fresh - 1, fresh].includes(more.neverChecked), "a range covers no later object");
  for (let run = 0; run < more.objectsListed; run++) await scrub(store);
  assert.equal((await scrub(store)).neverChecked, 0);
  assert.ok((await namesOf(store, "findings/")).length < 40, "findings are put together");
});

test("scrub: finds damage once, tells it to all, and lifts it when it is gone", async () => {
  const store = createMemoryStore();
  await addPoint(store, 1);
  const [pack = ""] = await namesOf(store, "packs/");
  const [map = ""] = await namesOf(store, "maps/");
  const bytes = await store.get(pack);
  await flipObjectBit(store, pack, 999);
  await store.remove(map);
  const report = await scrub(store, Infinity);
  assert.equal(report.verdict, "damaged");
  assert.deepEqual(report.badObjects.map(({ name }) => name).sort(), [map, pack]);
  const place = { store, keys: testKeys, vaultId: testKeys.vaultId };
  assert.deepEqual([...(await readFindings(place)).damaged].sort(), [map, pack]);
  await store.remove(pack);
  await store.put(pack, [bytes]);
  assert.equal((await scrub(store, Infinity)).damagedBefore, 2);
  assert.deepEqual([...(await readFindings(place)).damaged], [map]);
});

test("scrub: what the store does not answer is unknown, and due again", async () => {
  const inner = createMemoryStore();
  await addPoint(inner, 1);
  const store = new FaultyStore(inner);
  const error = new KluisError("StoreUnavailable", "Cannot reach the store: the test broke it");
  store.inject({ method: "get", name: /^packs\//, times: 9, fault: { kind: "error", error } });
  const report = await scrub(store, Infinity);
  assert.equal(report.verdict, "unknown");
  assert.equal(report.neverChecked, 1);
  const place = { store: inner, keys: testKeys, vaultId: testKeys.vaultId };
  assert.equal((await readFindings(place)).damaged.size, 0, "nothing is proved");
  assert.equal((await scrub(inner, Infinity)).neverChecked, 0);
});

test("scrub: in full comes by every object in turn, and remembers it apart from the lesser depth", async () => {
  const store = createMemoryStore();
  await addPoint(store, 1);
  const plain = await scrub(store, Infinity);
  assert.deepEqual([plain.neverChecked, plain.blocksChecked], [0, 0]);
  let blocks = 0;
  for (let run = 1; run <= plain.objectsListed; run++) {
    const report = await scrub(store, 1, "full");
    const { verdict, depth, objectsChecked, neverChecked } = report;
    assert.deepEqual([verdict, depth, objectsChecked], ["sound", "full", 1]);
    assert.equal(neverChecked, plain.objectsListed - run);
    blocks += report.blocksChecked;
  }
  const [all, again] = [await scrub(store, Infinity, "full"), await scrub(store, 1)];
  assert.ok(blocks > 0 && all.blocksChecked === blocks, `${blocks}, then ${all.blocksChecked}`);
  assert.equal(again.neverChecked, 0);
});

test("scrub: in full counts for the lesser depth as well", async () => {
  const store = createMemoryStore();
  await addPoint(store, 1);
  await scrub(store, Infinity, "full");
  assert.equal((await scrub(store)).neverChecked, 0);
});

test("scrub: what hashes to its name and does not open is found in full, and not lifted by less", async () => {
  const store = createMemoryStore();
  await addPoint(store, 1);
  const bad: string[] = [];
  for (const prefix of ["packs/", "maps/", "index/"]) {
    const [name = ""] = await namesOf(store, prefix);
    const bytes = flipBit(await store.get(name), 8 * 100 + random.integer(0, 200));
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    const hashed = `${name.slice(0, name.indexOf("/") + 1)}${prefix === "index/" ? "" : `${sha256.slice(0, 2)}/`}${sha256}`;
    assert.ok(parseStoreName(hashed) !== undefined, hashed);
    await store.put(hashed, [bytes]);
    bad.push(hashed);
  }
  bad.sort();
  assert.equal((await scrub(store, Infinity)).verdict, "sound");
  const report = await scrub(store, Infinity, "full");
  assert.equal(report.verdict, "damaged");
  assert.deepEqual(report.badObjects.map(({ name }) => name).sort(), bad);
  const place = { store, keys: testKeys, vaultId: testKeys.vaultId };
  for (const depth of ["objects", "full"] as const) {
    await scrub(store, Infinity, depth);
    assert.deepEqual([...(await readFindings(place)).damaged].sort(), bad);
  }
});

test("scrub: what was sealed under a key that is not at hand is unknown in full, and due again", async () => {
  const store = createMemoryStore();
  await addPoint(store, 1);
  const { vaultId } = testKeys;
  const masterKey = random.bytes(32);
  const others = deriveVaultKeys(vaultId, [
    { epoch: 1, masterKey },
    { epoch: 2, masterKey },
  ]);
  const pack = { keys: others, random };
  const { name, bytes } = buildContainer("indexSegment", encodeIndexSegment([]), pack);
  await store.put(indexSegmentName(name), [bytes]);
  const report = await scrub(store, Infinity, "full");
  assert.deepEqual([report.verdict, report.neverChecked], ["unknown", 1]);
  assert.match(report.badObjects[0]?.reason ?? "", /key epoch 2/);
  const place = { store, keys: testKeys, vaultId };
  assert.equal((await readFindings(place)).damaged.size, 0, "nothing is proved");
});

test("scrub: reads the key slots each time, and names one that is not as it was put", async () => {
  const store = createMemoryStore();
  const secrets = [createKeyFileSecret(random).secret, createRecoveryKey(random).secret] as const;
  const [host] = secrets;
  await createVaultFiles(store, { secrets, random, withRecoveryKey: false });
  const { keys } = await openVaultFiles(store, host);
  const run = async (): Promise<ScrubReport> =>
    await scrubVault({ store, keys, clock, budget: { bytes: 1, durationMs: Infinity } });
  assert.equal((await run()).verdict, "sound");
  const slots = await namesOf(store, slotPrefix);
  assert.equal(slots.length, 2);
  for (const name of slots) {
    const whole = await store.get(name);
    await flipObjectBit(store, name, whole.byteLength - 1);
    const report = await run();
    assert.equal(report.verdict, "damaged");
    assert.deepEqual(
      report.badObjects.map((object) => object.name),
      [name],
    );
    await store.remove(name);
    await store.put(name, [whole]);
  }
  assert.equal((await run()).verdict, "sound");
});
