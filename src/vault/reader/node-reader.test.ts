// Goal: nodes that lie together come with one fetch, frames are kept, and damage is named.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { mapPackPrefix } from "#formats/store-names.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { RecordingStore } from "#testing/recording-store.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { listAll } from "#testing/suites/object-store-suite.ts";
import { backUp } from "#testing/vault-points.ts";
import { walkMap } from "#vault/map/walk-map.ts";
import { NodeReader } from "./node-reader.ts";

const random = createSeededRandom("node reader");

test("node reader: a map of many nodes is read with one fetch, and then from memory", async () => {
  const store = await RecordingStore.open();
  await using vault = await openTestVault({ store });
  const disk = new MemoryDisk(64 * 1024 * 1024);
  for (let at = 0; at < 64; at += 2) disk.write(at * 1024 * 1024, random.bytes(600));
  const { manifest } = await backUp(vault, { itemId: "nodes", number: 1, disks: [disk] });
  const [map] = manifest.disks;
  assert.ok(map?.root);
  const access = new NodeReader({ store, keys: testKeys, locator: vault.locator });
  const before = store.reads.gets;
  for (let times = 0; times < 2; times++) {
    let leaves = 0;
    for await (const part of walkMap({ map, access })) if (part.leaf !== undefined) leaves++;
    assert.equal(leaves, 32);
  }
  assert.equal(store.reads.gets - before, 1);
});

test("node reader: names the object that is damaged, and the node that nobody has", async () => {
  const store = createMemoryStore();
  await using vault = await openTestVault({ store });
  const disk = new MemoryDisk(1024 * 1024);
  disk.write(0, random.bytes(600));
  const { manifest } = await backUp(vault, { itemId: "nodes", number: 1, disks: [disk] });
  const root = manifest.disks[0]?.root;
  assert.ok(root);
  const access = new NodeReader({ store, keys: testKeys, locator: vault.locator });
  await assert.rejects(access.source([root, random.bytes(24)]), (error) =>
    isKluisError(error, "BlockMissing"),
  );
  for (const name of (await listAll(store)).keys()) {
    if (!name.startsWith(mapPackPrefix)) continue;
    await flipObjectBit(store, name, 90 * 8);
    await assert.rejects(
      access.source([root]),
      (error) => isKluisError(error, "ObjectCorrupt") && error.message.includes(name),
    );
    await store.remove(name);
  }
  await assert.rejects(access.source([root]), (error) => isKluisError(error, "ObjectNotFound"));
});
