// Goal: a vault that is opened without its index reads no segment to list, to read and to delete points, and
// finds blocks all the same where somebody asks for them.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { indexPrefix } from "#formats/store-names.ts";
import type { ByteRange } from "#ports/object-store.ts";
import { HookedStore } from "#testing/hooked-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp } from "#testing/vault-points.ts";
import { present } from "#base/assert.ts";

class CountingStore extends HookedStore {
  segmentsRead = 0;

  override async get(name: string, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    if (name.startsWith(indexPrefix)) this.segmentsRead++;
    return await super.get(name, range, signal);
  }
}

test("vault without index: points are listed, read and deleted; blocks are found when they are asked for", async () => {
  const random = createSeededRandom("without index");
  const inner = createMemoryStore();
  const disk = new MemoryDisk(1024 * 1024);
  const disks = [disk];
  disk.write(0, random.bytes(512 * 1024));
  await using writer = await openTestVault({ store: inner });
  const first = await backUp(writer, { itemId: "vm", number: 1, disks });
  disk.write(0, random.bytes(4096));
  const second = await backUp(writer, { itemId: "vm", number: 2, disks, base: first });

  const store = new CountingStore(inner);
  await using vault = await openTestVault({ store, withoutIndex: true });
  const [oldest] = await vault.listPoints("vm");
  await vault.readPoint(present(oldest, "it was listed"));
  await vault.deletePoint(present(oldest, "it was listed"));
  assert.equal((await vault.listPoints()).length, 1);
  assert.equal(store.segmentsRead, 0);

  await assertPointReads(vault, second);
  assert.ok(store.segmentsRead > 0);
});
