// Goal: the newest point of many increments reads back whole with few fetches, each frame opened about
// once; and from another copy where a pack is gone or damaged.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { packPrefix } from "#formats/store-names.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { listAll } from "#testing/suites/object-store-suite.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";

const mib = 1024 * 1024;
const pageBytes = 4096;
const random = createSeededRandom("restore of increments");

class CountingStore extends FaultyStore {
  gets = 0;
  bytes = 0;

  override async get(...args: Parameters<FaultyStore["get"]>): Promise<Uint8Array> {
    const content = await super.get(...args);
    if (args[0].startsWith(packPrefix)) {
      this.gets++;
      this.bytes += content.byteLength;
    }
    return content;
  }
}

test("restore of increments: few fetches for each pack, and hardly a byte twice", async () => {
  const store = new CountingStore(createMemoryStore());
  const sizeBytes = 32 * mib;
  const increments = 10;
  const disk = new MemoryDisk(sizeBytes);
  disk.write(0, random.bytes(sizeBytes));
  await using vault = await openTestVault({ store });
  let kept: KeptPoint = await backUp(vault, { itemId: "vm", number: 1, disks: [disk] });
  for (let number = 2; number < increments + 2; number++) {
    // Some pages of every 2 MiB, and what the guest had written there before.
    for (let at = 0; at < sizeBytes; at += 2 * mib) {
      for (let pages = 0; pages < 5; pages++) {
        disk.write(at + random.integer(0, 511) * pageBytes, random.bytes(pageBytes));
      }
    }
    kept = await backUp(vault, { itemId: "vm", number, disks: [disk], base: kept });
  }
  const storedBytes = [...(await listAll(store))]
    .filter(([name]) => name.startsWith(packPrefix))
    .reduce((sum, [, bytes]) => sum + bytes, 0);
  store.gets = store.bytes = 0;
  await assertPointReads(vault, kept);
  assert.ok(store.bytes <= storedBytes * 1.1, `${store.bytes} of ${storedBytes} bytes`);
  // The whole disk in gets of at most 4 MiB, and for each 16 MiB of it one for each increment.
  const gets = sizeBytes / (4 * mib) + 2 * increments;
  assert.ok(store.gets <= gets * 1.5, `${store.gets} gets`);
});

test("restore of increments: where a pack is gone or damaged, from another that has its blocks", async () => {
  const store = createMemoryStore();
  const disk = new MemoryDisk(6 * mib);
  disk.write(0, random.bytes(6 * mib));
  const packsNow = async (): Promise<string[]> =>
    [...(await listAll(store)).keys()].filter((name) => name.startsWith(packPrefix));
  await using first = await openTestVault({ store });
  await backUp(first, { itemId: "vm", number: 1, disks: [disk] });
  const [pack, ...others] = await packsNow();
  assert.ok(pack !== undefined && others.length === 0);
  // Stored anew while the first pack is gone; then that comes back.
  const content = await store.get(pack);
  await store.remove(pack);
  await using second = await openTestVault({ store });
  const kept = await backUp(second, { itemId: "vm", number: 2, disks: [disk] });
  const [copy] = await packsNow();
  assert.ok(copy !== undefined);
  await store.put(pack, [content]);
  for (const lost of [pack, copy]) {
    const sound = await store.get(lost);
    for (const harm of ["remove", "flip"] as const) {
      if (harm === "remove") await store.remove(lost);
      else await flipObjectBit(store, lost, 8 * 2 * mib);
      await using vault = await openTestVault({ store });
      await assertPointReads(vault, kept);
      if (harm === "flip") await store.remove(lost);
      await store.put(lost, [sound]);
    }
  }
});
