// Goal: a comparison by checksums names exactly the windows that differ, whatever sizes and holes
// both have, and after an error nothing goes on. Method: random disks against a plain comparison.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isZero } from "#base/bytes.ts";
import { windowBytes } from "#formats/geometry.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { Extent } from "#ports/disk.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { createMemoryReader, MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { watchThreads } from "#testing/thread-watch.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import { segmentBytes } from "#vault/limits.ts";
import type { Vault } from "#vault/vault.ts";

const random = createSeededRandom("find changes");
const mib = 1024 * 1024;

function windowOf(disk: MemoryDisk, window: number): Uint8Array {
  const bytes = new Uint8Array(windowBytes);
  const start = window * windowBytes;
  disk.read(start, bytes.subarray(0, Math.max(0, Math.min(windowBytes, disk.sizeBytes - start))));
  return bytes;
}

/** The windows of the part that both have which differ, as extents. */
function compare(base: MemoryDisk, disk: MemoryDisk): Extent[] {
  const sizeBytes = Math.min(base.sizeBytes, disk.sizeBytes);
  const changes: Extent[] = [];
  for (let window = 0; window * windowBytes < sizeBytes; window++) {
    const now = windowOf(disk, window);
    if (Buffer.compare(now, windowOf(base, window)) === 0) continue;
    const kind = isZero(now) ? "zero" : "data";
    const offsetBytes = window * windowBytes;
    const lengthBytes = Math.min(windowBytes, sizeBytes - offsetBytes);
    const last = changes.at(-1);
    if (last?.kind === kind && last.offsetBytes + last.lengthBytes === offsetBytes) {
      changes[changes.length - 1] = { ...last, lengthBytes: last.lengthBytes + lengthBytes };
    } else changes.push({ offsetBytes, lengthBytes, kind });
  }
  return changes;
}

function createDisk(): MemoryDisk {
  const disk = new MemoryDisk(random.integer(1, 24 * 2048) * 512);
  for (let writes = random.integer(0, 12); writes > 0; writes--) write(disk);
  return disk;
}

function write(disk: MemoryDisk): void {
  const lengthBytes = Math.min(random.pick([1, 512, 4096, 300_000]), disk.sizeBytes);
  const offsetBytes = random.integer(0, disk.sizeBytes - lengthBytes);
  const how = random.integer(0, 4);
  if (how === 0) disk.zero(offsetBytes, lengthBytes);
  else disk.write(offsetBytes, how === 1 ? new Uint8Array(lengthBytes) : random.bytes(lengthBytes));
}

async function assertFinds(vault: Vault, base: KeptPoint, disk: MemoryDisk): Promise<number> {
  const [mapped] = base.manifest.disks;
  const [content] = base.disks;
  assert.ok(mapped && content);
  await using reader = createMemoryReader(disk);
  const progress: number[] = [];
  const found = await vault.findChanges(reader, mapped, {
    name: "disk0",
    onProgress: ({ doneBytes, totalBytes }) => {
      assert.ok(doneBytes <= totalBytes);
      progress.push(doneBytes);
    },
  });
  assert.deepEqual(found.changes, compare(content, disk));
  assert.deepEqual(
    progress,
    progress.toSorted((a, b) => a - b),
  );
  assert.ok(found.examinedBytes <= disk.sizeBytes);
  return found.changes.length;
}

test("find changes: names the windows that differ and no other", async () => {
  const rounds = process.env["KLUIS_LONG"] === "1" ? 300 : 12;
  await using vault = await openTestVault();
  let found = 0;
  for (let round = 0; round < rounds; round++) {
    const disk = createDisk();
    const base = await backUp(vault, { itemId: "find", number: round + 1, disks: [disk] });
    await assertFinds(vault, base, disk);
    const changed = disk.resized(
      random.chance(0.5) ? disk.sizeBytes : random.integer(1, 24 * 2048) * 512,
    );
    for (let writes = random.integer(0, 5); writes > 0; writes--) write(changed);
    found += await assertFinds(vault, base, changed);
  }
  console.log(`${found} changed extents in ${rounds} rounds`);
  assert.ok(found > 0);
});

test("find changes: reads only what the disk holds", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(2 ** 40);
  disk.write(2 ** 39, random.bytes(5000));
  const base = await backUp(vault, { itemId: "sparse", number: 1, disks: [disk] });
  const [mapped] = base.manifest.disks;
  assert.ok(mapped);
  disk.write(2 ** 39 + mib, random.bytes(10));
  const found = await vault.findChanges(createMemoryReader(disk), mapped, { name: "disk0" });
  assert.deepEqual(found, {
    changes: [{ offsetBytes: 2 ** 39 + mib, lengthBytes: windowBytes, kind: "data" }],
    examinedBytes: 2 * windowBytes,
  });
});

test("find changes: an error of disk or store, or an abort, ends it and everything it began", async () => {
  const content = new MemoryDisk(6 * segmentBytes);
  for (let at = 0; at < content.sizeBytes; at += mib) content.write(at, random.bytes(mib));
  const store = new FaultyStore(createMemoryStore());
  await using vault = await openTestVault({ store });
  const { manifest } = await backUp(vault, { itemId: "broken", number: 1, disks: [content] });
  const [mapped] = manifest.disks;
  assert.ok(mapped);
  using threads = watchThreads();
  for (let at = 0; at <= 7; at++) {
    const controller = new AbortController();
    let reads = 0;
    let running = 0;
    const reader = createMemoryReader(content, {
      onRead: async () => {
        const isLast = reads++ === at;
        running++;
        for (let turn = 0; turn < 4; turn++) await new Promise(setImmediate);
        running--;
        if (isLast && at % 2 === 0) throw new Error("enough");
        if (isLast) controller.abort(new Error("enough"));
      },
    });
    const { signal } = controller;
    const finding = vault.findChanges(reader, mapped, { name: "disk0", signal });
    if (at < 6) await assert.rejects(finding, /enough/);
    else await finding;
    assert.equal(running, 0, "no read is under way");
    const before = reads;
    for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate);
    assert.equal(reads, before, "no read follows the error");
    assert.equal(threads.alive.size, 0, "no thread is left");
  }
  await using fresh = await openTestVault({ store });
  store.failNext("get");
  const broken = fresh.findChanges(createMemoryReader(content), mapped, { name: "disk0" });
  await assert.rejects(broken, { code: "StoreUnavailable" });
  assert.equal(threads.alive.size, 0, "no thread is left");
});
