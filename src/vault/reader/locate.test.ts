// Goal: what other writers put is found without asking for it, a listing is made only when one may
// help, and who misses a block is told which index segment is lost.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { indexPrefix, indexSegmentName, parseStoreName } from "#formats/store-names.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { backUp } from "#testing/vault-points.ts";
import { openIndex } from "#vault/index/block-index.ts";
import { readIndexSegment } from "#vault/vault.ts";
import { Locator, withCopies } from "./locate.ts";

const random = createSeededRandom("locate");
const store = createMemoryStore();

/** Backs a fresh disk up; returns the id of its map's root. */
async function addPoint(number: number): Promise<Uint8Array> {
  const disk = new MemoryDisk(512 * 1024);
  disk.write(0, random.bytes(5000));
  await using vault = await openTestVault({ store });
  const { manifest } = await backUp(vault, { itemId: "vm", number, disks: [disk] });
  const root = manifest.disks[0]?.root;
  assert.ok(root);
  return root;
}

async function listSegments(): Promise<Uint8Array[]> {
  const names: Uint8Array[] = [];
  for await (const { name } of store.list(indexPrefix)) {
    const parsed = parseStoreName(name);
    if (parsed?.kind === "index-segment") names.push(parsed.sha256);
  }
  return names;
}

/** A locator that counts its listings; the first so many of them fail. */
async function createLocator(failures = 0) {
  const index = await openIndex({
    segmentNames: await listSegments(),
    readSegment: (name) => readIndexSegment({ store, keys: testKeys }, name),
  });
  const counts = { listings: 0 };
  const locator = new Locator(index, async () => {
    if (counts.listings++ < failures) throw new Error("no answer");
    return await listSegments();
  });
  return { index, locator, counts };
}

test("locate: finds what was put later, with one listing after each manifest", async () => {
  const { index, locator, counts } = await createLocator();
  const [first, second] = [await addPoint(1), await addPoint(2)];
  assert.equal(index.has(first), false);
  const [one] = await Promise.all([first, second, first].map((id) => locator.locate(id)));
  assert.equal(one?.pack.type, "mapPack");
  assert.equal(counts.listings, 1);
  const stranger = random.bytes(24);
  for (let times = 0; times < 3; times++) {
    await assert.rejects(locator.locate(stranger), (error) => isKluisError(error, "BlockMissing"));
  }
  assert.equal(counts.listings, 1, "nothing new is expected");
  const third = await addPoint(3);
  await assert.rejects(locator.locate(third), (error) => isKluisError(error, "BlockMissing"));
  locator.expectMore();
  await locator.locate(third);
  assert.equal(counts.listings, 2);
  await index.close();
});

test("locate: a listing that failed is tried again", async () => {
  const { index, locator, counts } = await createLocator(2);
  const root = await addPoint(4);
  await assert.rejects(locator.locate(root), /no answer/);
  await assert.rejects(locator.refresh(), /no answer/);
  await locator.locate(root);
  assert.equal(counts.listings, 3);
  await index.close();
});

test("locate: names a lost index segment to who misses a block", async () => {
  const before = new Set((await listSegments()).map(indexSegmentName));
  const root = await addPoint(5);
  const fresh = (await listSegments()).map(indexSegmentName).filter((name) => !before.has(name));
  for (const name of fresh) await flipObjectBit(store, name, 900);
  const { index, locator } = await createLocator();
  await assert.rejects(
    locator.locate(root),
    (error) =>
      isKluisError(error, "BlockMissing") &&
      fresh.includes(String(error.details["object"])) &&
      error.message.includes("cannot be read"),
  );
  await index.close();
});

test("locate: who begins to read while a damaged pack is only about to be avoided looks again too", async () => {
  const listing = Promise.withResolvers<void>();
  const index = await openIndex({
    segmentNames: [],
    readSegment: () => Promise.reject(new Error("nothing is read")),
  });
  const locator = new Locator(index, async () => {
    await listing.promise;
    return [];
  });
  const object = `packs/ab/${"ab".repeat(32)}`;
  const readOnce = (): (() => Promise<string>) => {
    let reads = 0;
    return () =>
      reads++ === 0
        ? Promise.reject(new KluisError("ObjectNotFound", "Cannot read", { details: { object } }))
        : Promise.resolve("read");
  };
  const first = withCopies(locator, readOnce());
  await new Promise(setImmediate);
  const second = withCopies(locator, readOnce());
  await new Promise(setImmediate);
  listing.resolve();
  assert.deepEqual(await Promise.all([first, second]), ["read", "read"]);
  // Who begins now has been told: the pack is avoided, and no other has the block.
  await assert.rejects(withCopies(locator, readOnce()), (error) =>
    isKluisError(error, "ObjectNotFound"),
  );
  await index.close();
});
