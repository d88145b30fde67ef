// Goal: scrubs within a budget come by every object in turn, remember it in the vault, find what is
// damaged or missing, and say the truth about what was never checked.
// Method: a small vault in memory; scrubs of one object each until all were read; then damage, a
// store that does not answer, and objects that come after their range was read.
import assert from "node:assert/strict";
import { test } from "node:test";

import { KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { backUp } from "#testing/vault-points.ts";
import { readFindings } from "./inventory/findings.ts";
import { scrubVault, type ScrubReport } from "./scrub.ts";

const random = createSeededRandom("scrub");
const clock = new ManualClock();

async function addPoint(store: ObjectStore, number: number): Promise<void> {
  await using vault = await openTestVault({ store });
  const disk = new MemoryDisk(600 * 1024);
  disk.write(0, random.bytes(5000));
  await backUp(vault, { itemId: `disk ${number}`, number, disks: [disk] });
}

async function scrub(store: ObjectStore, bytes = 1): Promise<ScrubReport> {
  return await scrubVault({
    store,
    keys: testKeys,
    clock,
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
