// Goal: the memory disk, which the tests of everything above trust, equals a plain byte array.
// Method: the conformance suites, and a model of random steps against a Uint8Array.
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesEqual } from "#base/bytes.ts";
import { createGeneratedReader } from "./generated-disk.ts";
import { createMemoryReader, createMemoryTarget, MemoryDisk } from "./memory-disk.ts";
import { createPrng, testSeed } from "./seed.ts";
import { assertWholeExtents, collect, testDiskReader } from "./suites/disk-reader-suite.ts";
import { testDiskWriter } from "./suites/disk-writer-suite.ts";

testDiskReader("memory disk reader", {
  reportsHoles: true,
  open: async (content) => ({
    reader: createMemoryReader(content),
    changeBehind: async () => {
      content.write(0, new Uint8Array(512));
    },
    async [Symbol.asyncDispose]() {
      // Memory only.
    },
  }),
});

testDiskWriter("memory disk writer", {
  open: async (sizeBytes) => {
    const target = createMemoryTarget(sizeBytes);
    return {
      writer: target.writer,
      readBack: async () => target.committed()?.bytes(),
      leftovers: async () => [],
      async [Symbol.asyncDispose]() {
        await target.writer[Symbol.asyncDispose]();
      },
    };
  },
});

test("memory disk: equals a byte array after random writes, zeros and snapshots", () => {
  const prng = createPrng(testSeed());
  const sizeBytes = 64 * 4096 + 1536;
  const disk = new MemoryDisk(sizeBytes);
  const model = new Uint8Array(sizeBytes);
  let base = disk.snapshot();
  let baseModel = model.slice();
  for (let step = 0; step < 2000; step++) {
    const lengthBytes = prng.below(3 * 4096);
    const offsetBytes = prng.below(sizeBytes - lengthBytes + 1);
    if (prng.below(2) === 0) {
      const bytes = prng.bytes(lengthBytes);
      disk.write(offsetBytes, bytes);
      model.set(bytes, offsetBytes);
    } else {
      disk.zero(offsetBytes, lengthBytes);
      model.fill(0, offsetBytes, offsetBytes + lengthBytes);
    }
    if (step % 40 !== 39) continue;
    assert.ok(bytesEqual(disk.bytes(), model));
    assert.ok(bytesEqual(base.bytes(), baseModel), "a snapshot stays");
    assertWholeExtents(disk.extents(), sizeBytes);
    assertChanges(disk, base);
    base = disk.snapshot();
    baseModel = model.slice();
  }
});

/** Applying the changes to the base gives the disk. */
function assertChanges(disk: MemoryDisk, base: MemoryDisk): void {
  const patched = base.bytes();
  for (const { offsetBytes, lengthBytes, kind } of disk.changesSince(base)) {
    const bytes = new Uint8Array(lengthBytes);
    disk.read(offsetBytes, bytes);
    if (kind === "zero") assert.ok(bytes.every((byte) => byte === 0));
    patched.set(bytes, offsetBytes);
  }
  assert.ok(bytesEqual(patched, disk.bytes()));
}

test("memory disk: 4 TiB with two written pages takes two pages", () => {
  const disk = new MemoryDisk(2 ** 42);
  disk.write(2 ** 41 + 4096, new Uint8Array(4096).fill(7));
  disk.write(2 ** 42 - 512, new Uint8Array(512).fill(8));
  disk.zero(0, 2 ** 41);
  assert.equal(disk.allocatedBytes, 8192);
  assert.equal(disk.extents().length, 4);
  const base = disk.snapshot();
  disk.zero(0, 2 ** 42);
  assert.equal(disk.allocatedBytes, 0);
  assert.deepEqual(disk.changesSince(base), [
    { offsetBytes: 2 ** 41 + 4096, lengthBytes: 4096, kind: "zero" },
    { offsetBytes: 2 ** 42 - 4096, lengthBytes: 4096, kind: "zero" },
  ]);
});

test("memory disk: a resized copy is cut or filled with zeros", () => {
  const disk = new MemoryDisk(8192);
  disk.write(0, new Uint8Array(8192).fill(9));
  const grown = disk.resized(4096).resized(8192);
  assert.deepEqual(grown.extents(), [
    { offsetBytes: 0, lengthBytes: 4096, kind: "data" },
    { offsetBytes: 4096, lengthBytes: 4096, kind: "zero" },
  ]);
  assert.ok(
    disk
      .resized(512)
      .bytes()
      .every((byte) => byte === 9),
  );
});

test("generated disk: is the same in any pieces and differs only where pages were changed", async () => {
  const MIB = 1024 * 1024;
  const options = {
    sizeBytes: 4 * MIB,
    seed: 1,
    data: [{ offsetBytes: MIB, lengthBytes: 2 * MIB }],
  };
  const before = createGeneratedReader(options);
  const after = createGeneratedReader({ ...options, changedPages: new Map([[300, 2]]) });
  assertWholeExtents(await collect(before), options.sizeBytes);
  const whole = new Uint8Array(options.sizeBytes);
  await before.read(0, whole);
  const pieces = new Uint8Array(options.sizeBytes);
  for (let at = 0; at < pieces.byteLength; at += 1000) {
    await before.read(at, pieces.subarray(at, at + 1000));
  }
  assert.ok(bytesEqual(whole, pieces));
  const changed = new Uint8Array(options.sizeBytes);
  await after.read(0, changed);
  const differing = new Set<number>();
  for (let at = 0; at < whole.byteLength; at++) {
    if (whole[at] !== changed[at]) differing.add(Math.floor(at / 4096));
  }
  assert.deepEqual([...differing], [300]);
  const pages = new Set<string>();
  for (let at = MIB; at < 3 * MIB; at += 4096) {
    pages.add(Buffer.from(whole.subarray(at, at + 4096)).toString("base64"));
  }
  assert.equal(pages.size, 512, "all pages differ");
});
