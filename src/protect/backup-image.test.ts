// Goal: whatever method finds the changes, the newest point reads back as the image was, and an
// increment sends only what changed. Method: random histories of one memory disk.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import type { SourceImage } from "#ports/source-image.ts";
import { createMemoryReader, MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import type { Vault } from "#vault/vault.ts";
import { backupImage, imageDiskName } from "./backup-image.ts";

const MiB = 1024 * 1024;
const request = { itemId: "/images/one.raw", itemName: "/images/one.raw" };

function toImage(disk: MemoryDisk, more: Partial<SourceImage> = {}): SourceImage {
  const reader = createMemoryReader(disk);
  return {
    reader,
    identity: `version ${disk.version}`,
    [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose](),
    ...more,
  };
}

async function backup(vault: Vault, image: SourceImage, bitmapSince?: string) {
  await using source = image;
  return await backupImage(
    source,
    { ...request, ...(bitmapSince === undefined ? {} : { bitmapSince }) },
    { vault, clock: systemClock, random: systemRandom },
  );
}

async function readBack(vault: Vault, pointId?: string): Promise<Uint8Array> {
  const names = await vault.listPoints(request.itemId);
  const name = pointId === undefined ? names.at(-1) : names.find((n) => n.pointId === pointId);
  assert.ok(name);
  const [disk] = (await vault.readPoint(name)).disks;
  assert.ok(disk);
  await using reader = vault.openDisk(disk);
  const content = new Uint8Array(reader.sizeBytes);
  await reader.read(0, content);
  return content;
}

function fill(disk: MemoryDisk, seed: number, bytes: number): void {
  const prng = createPrng(seed);
  for (let at = 0; at < bytes; at += MiB) disk.write(at, prng.bytes(MiB));
}

test("image backup: full, then what checksums find, each point complete", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(8 * MiB);
  fill(disk, testSeed(), 4 * MiB);
  const first = await backup(vault, toImage(disk));
  assert.equal(first.manifest.disks[0]?.tracking, "full");
  const before = disk.bytes();
  disk.write(300_000, createPrng(1).bytes(5000));
  disk.zero(2 * MiB, MiB);
  const second = await backup(vault, toImage(disk));
  const [found] = second.manifest.disks;
  assert.equal(found?.tracking, "checksum");
  assert.match(found?.trackingReason ?? "", /does not tell its changes/);
  assert.equal(second.manifest.basePointId, first.manifest.pointId);
  assert.ok((found?.newBytes ?? 0) <= 3 * 4096, `new ${found?.newBytes}`);
  assert.deepEqual(await readBack(vault), disk.bytes());
  assert.deepEqual(await readBack(vault, first.manifest.pointId), before);
});

test("image backup: an overlay on the last point's file sends its changes without reading the rest", async () => {
  await using vault = await openTestVault();
  const below = new MemoryDisk(8 * MiB);
  fill(below, testSeed() + 1, 4 * MiB);
  const first = await backup(vault, toImage(below, { identity: "below" }));
  const top = below.snapshot();
  top.write(MiB + 4096, createPrng(2).bytes(8192));
  const image = toImage(top, {
    identity: "top",
    backing: {
      identity: "below",
      open: async () => createMemoryReader(below),
      changes: async () => top.changesSince(below),
    },
  });
  const second = await backup(vault, image);
  const [disk] = second.manifest.disks;
  assert.equal(disk?.tracking, "snapshot-difference");
  // The changes, and a sample of what is said to be unchanged.
  const examinedBytes = disk?.examinedBytes ?? 0;
  assert.ok(examinedBytes >= 8192 && examinedBytes <= 8192 + 2 * MiB, `${examinedBytes} bytes`);
  assert.equal(disk?.changedBytes, 8192);
  assert.equal(disk?.namedBytes, 8192);
  assert.equal(disk?.namedRanges, 1);
  assert.equal(disk?.source, "top");
  assert.equal(second.manifest.basePointId, first.manifest.pointId);
  assert.deepEqual(await readBack(vault), top.bytes());
});

test("image backup: an overlay that hides a change is found out, and the whole disk is compared", async () => {
  await using vault = await openTestVault();
  const below = new MemoryDisk(2 * MiB);
  fill(below, testSeed() + 5, 2 * MiB);
  await backup(vault, toImage(below, { identity: "below" }));
  const top = below.snapshot();
  // Every window, so that whichever is sampled has one.
  for (let at = 0; at < top.sizeBytes; at += 128 * 1024) top.write(at, createPrng(3).bytes(16));
  const image = toImage(top, {
    identity: "top",
    backing: {
      identity: "below",
      open: async () => createMemoryReader(below),
      changes: async () => [],
    },
  });
  const { manifest, warnings } = await backup(vault, image);
  assert.equal(manifest.disks[0]?.tracking, "checksum");
  assert.match(manifest.disks[0]?.trackingReason ?? "", /record of changes is wrong/);
  assert.match(warnings.join(), /not to be trusted/);
  assert.deepEqual(await readBack(vault), top.bytes());
});

test("image backup: a bitmap is relative to the point that is named", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(4 * MiB);
  fill(disk, testSeed() + 2, 2 * MiB);
  const first = await backup(vault, toImage(disk));
  const atFirst = disk.snapshot();
  disk.write(0, createPrng(3).bytes(4096));
  await backup(vault, toImage(disk));
  disk.write(MiB, createPrng(4).bytes(4096));
  const bitmap = { name: "since-first", changes: async () => disk.changesSince(atFirst) };
  const third = await backup(vault, toImage(disk, { bitmap }), first.manifest.pointId);
  assert.equal(third.manifest.basePointId, first.manifest.pointId);
  assert.equal(third.manifest.disks[0]?.tracking, "dirty-bitmap");
  assert.equal(third.manifest.disks[0]?.changedBytes, 8192);
  assert.deepEqual(await readBack(vault), disk.bytes());
  await assert.rejects(
    backup(vault, toImage(disk, { bitmap }), "000000000000-0000000000000000"),
    (error) => isKluisError(error, "RecoveryPointNotFound"),
  );
});

test("image backup: grown and shrunk images are complete", async () => {
  await using vault = await openTestVault();
  let disk = new MemoryDisk(3 * MiB + 512);
  fill(disk, testSeed() + 3, 3 * MiB);
  await backup(vault, toImage(disk));
  for (const sizeBytes of [5 * MiB, 5 * MiB + 512, MiB - 512, 2 * MiB]) {
    disk = disk.resized(sizeBytes);
    disk.write(sizeBytes - 512, createPrng(sizeBytes).bytes(512));
    const { manifest } = await backup(vault, toImage(disk));
    assert.equal(manifest.disks[0]?.sizeBytes, sizeBytes);
    assert.equal(manifest.disks[0]?.name, imageDiskName);
    assert.deepEqual(await readBack(vault), disk.bytes());
  }
});

test("image backup: an image that is written meanwhile leaves no point", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(2 * MiB);
  fill(disk, testSeed() + 4, 2 * MiB);
  const reader = createMemoryReader(disk, {
    onRead: () => {
      disk.write(0, new Uint8Array([1]));
    },
  });
  await assert.rejects(backup(vault, toImage(disk, { reader })), (error) =>
    isKluisError(error, "ImageChangedDuringRead"),
  );
  assert.deepEqual(await vault.listPoints(), []);
});
