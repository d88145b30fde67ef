/**
 * Goal: a disk that was written behind a record of changes is found out, and one that was not never is.
 * Method: disks in a vault, changed with and without saying so, sampled again and again.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { windowBytes } from "#formats/geometry.ts";
import type { ChangedExtents } from "#ports/disk.ts";
import { createMemoryReader, MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { backUp } from "#testing/vault-points.ts";
import { sampleWindows } from "./sample-unchanged.ts";

const random = createSeededRandom("sample unchanged");
const windows = 64;

function createDisk(): MemoryDisk {
  const disk = new MemoryDisk(windows * windowBytes);
  for (let window = 0; window < windows; window += 2) {
    disk.write(window * windowBytes + 5000, random.bytes(9000));
  }
  return disk;
}

test("sample: what is unchanged, or named as changed, is never called wrong", async () => {
  await using vault = await openTestVault();
  const disk = createDisk();
  const { manifest } = await backUp(vault, { itemId: "sample", number: 1, disks: [disk] });
  const [base] = manifest.disks;
  assert.ok(base !== undefined);
  const changes: ChangedExtents = [3, 8, 9, 40].map((window) => {
    disk.write(window * windowBytes + 4096, random.bytes(4096));
    return { offsetBytes: window * windowBytes + 4096, lengthBytes: 4096, kind: "data" };
  });
  await using reader = createMemoryReader(disk);
  for (let round = 0; round < 50; round++) {
    const sample = await vault.sampleUnchanged({ reader, base, changes });
    assert.equal(sample.differsAtBytes, undefined);
    assert.ok(sample.examinedBytes > 0 && sample.examinedBytes <= sampleWindows * windowBytes);
  }
});

test("sample: a write that no record names is found, in data, in zeros and in few data of a large disk", async () => {
  await using vault = await openTestVault();
  for (const [number, window] of [10, 11].entries()) {
    const disk = createDisk();
    const item = { itemId: "behind", number: number + 1, disks: [disk] };
    const [base] = (await backUp(vault, item)).manifest.disks;
    assert.ok(base !== undefined);
    disk.write(window * windowBytes + 100, random.bytes(1));
    await using reader = createMemoryReader(disk);
    let rounds = 0;
    // One window of 64 is missed by four samples in more than nine of ten rounds.
    for (let found = false; !found; rounds++) {
      const { differsAtBytes } = await vault.sampleUnchanged({ reader, base, changes: [] });
      found = differsAtBytes !== undefined;
      if (found) assert.equal(differsAtBytes, window * windowBytes);
      assert.ok(rounds < 1000, "it is found");
    }
  }
  const sparse = new MemoryDisk(windows * windowBytes * 64);
  sparse.write(70 * windowBytes, random.bytes(windowBytes));
  const item = { itemId: "sparse", number: 1, disks: [sparse] };
  const [base] = (await backUp(vault, item)).manifest.disks;
  assert.ok(base !== undefined);
  sparse.write(70 * windowBytes, random.bytes(16));
  await using reader = createMemoryReader(sparse);
  const behind = { reader, base, changes: [] };
  let found = 0;
  for (let round = 0; round < 300; round++) {
    if ((await vault.sampleUnchanged(behind)).differsAtBytes !== undefined) found++;
  }
  assert.ok(found >= 1, `${found} of 300`);
});
