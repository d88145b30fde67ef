/**
 * Goal: a device below layers that was written is noticed, one that nobody watched all the time is
 * told as such, and who has a device open for writing is found. Method: loop devices.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { open, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import {
  isDeviceClaimed,
  isDeviceReadOnly,
  listDeviceWriters,
  readDeviceBytes,
  readDeviceWatch,
} from "#drivers/disk/block-device.ts";
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";
import { assertLayerUnchanged, readLayerFingerprint } from "#drivers/layers/layer-fingerprint.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { openLoopDevice, type LoopDevice } from "../../lab/loop-device.ts";

const sizeBytes = 4 * 1024 * 1024;
/** No sample of a disk of that size lies here. */
const unsampledBytes = 1_000_000;

interface Fixture extends AsyncDisposable {
  readonly file: string;
  readonly device: LoopDevice;
}

async function openFixture(): Promise<Fixture> {
  await using owned = new AsyncDisposableStack();
  const folder = owned.use(await createTempFolder());
  const file = join(folder.path, "disk.raw");
  await writeFile(file, Buffer.alloc(sizeBytes, 7));
  const device = owned.use(await openLoopDevice(file, join(folder.path, "disk")));
  const ending = owned.move();
  return { file, device, [Symbol.asyncDispose]: () => ending.disposeAsync() };
}

async function writeAt(path: string, offsetBytes: number): Promise<void> {
  const file = await open(path, "r+");
  await file.write(Buffer.from("x"), 0, 1, offsetBytes);
  await file.close();
}

function assertChanged(work: Promise<unknown>, reason: RegExp): Promise<void> {
  return assert.rejects(work, (error) => {
    assert.ok(isKluisError(error, "SnapshotBaseChanged"), String(error));
    assert.match(error.message, reason);
    return true;
  });
}

test("device fingerprint: a device that nobody wrote is proven to be the same", async () => {
  await using fixture = await openFixture();
  const { path } = fixture.device;
  const before = await readLayerFingerprint(path, systemClock);
  assert.equal(before.sizeBytes, sizeBytes);
  assert.equal(await assertLayerUnchanged(path, before), true);
  await using reader = await openDiskImage(path, { format: "raw", isShared: true });
  await using other = await openDiskImage(path, { format: "raw", isShared: true });
  for (const each of [reader, other]) await each.read(0, new Uint8Array(4096));
  await reader.assertUnchanged();
  assert.equal(await assertLayerUnchanged(path, before), true);
});

test("device fingerprint: notices a write wherever it is, and a discard", async () => {
  await using fixture = await openFixture();
  const { path } = fixture.device;
  for (const offsetBytes of [0, 70_000, unsampledBytes, sizeBytes - 1, 1]) {
    const before = await readLayerFingerprint(path, systemClock);
    await writeAt(path, offsetBytes);
    await assertChanged(assertLayerUnchanged(path, before), /it was written/);
  }
  const before = await readLayerFingerprint(path, systemClock);
  execFileSync("blkdiscard", ["-o", String(1024 * 1024), "-l", "4096", path]);
  await assertChanged(assertLayerUnchanged(path, before), /it was written/);
});

test("device fingerprint: a device that was away is not proven to be the same", async () => {
  await using fixture = await openFixture();
  const { file, device } = fixture;
  const { path } = device;
  const before = await readLayerFingerprint(path, systemClock);
  await device.reattach();
  assert.equal(await assertLayerUnchanged(path, before), false);
  const again = await readLayerFingerprint(path, systemClock);
  assert.equal(await assertLayerUnchanged(path, again), true);
  await device.reattach();
  await writeAt(file, unsampledBytes);
  assert.equal(await assertLayerUnchanged(path, again), false, "no sample lies there");
  await writeAt(file, 0);
  await device.reattach();
  await assertChanged(assertLayerUnchanged(path, again), /its content differs/);
});

test("device fingerprint: notices another size, and a device that is gone or none any more", async () => {
  await using fixture = await openFixture();
  const { file, device } = fixture;
  const { path } = device;
  const before = await readLayerFingerprint(path, systemClock);
  await truncate(file, 2 * sizeBytes);
  execFileSync("losetup", ["-c", path]);
  assert.equal(await readDeviceBytes(path), 2 * sizeBytes);
  await assertChanged(assertLayerUnchanged(path, before), /had 4194304 .*give it that size again/);
  await assertChanged(assertLayerUnchanged(`${path}-gone`, before), /it is gone/);
  await assertChanged(assertLayerUnchanged(file, before), /no block device any more/);
});

test("device fingerprint: counts are not believed where nobody counts, and of partitions", async () => {
  await using fixture = await openFixture();
  const { path } = fixture.device;
  const script = [
    'd=$(basename "$(readlink "$1")")',
    'echo "$2" >/sys/block/$d/queue/iostats',
  ].join("; ");
  const count = (how: "0" | "1"): void => {
    execFileSync("sh", ["-c", script, "sh", path, how]);
  };
  const before = await readLayerFingerprint(path, systemClock);
  count("0");
  try {
    assert.equal(await readDeviceWatch(path), undefined);
    assert.equal(await assertLayerUnchanged(path, before), false);
  } finally {
    count("1");
  }
  assert.equal(await assertLayerUnchanged(path, before), true);
  const whole = execFileSync("readlink", ["-f", path], { encoding: "utf8" }).trim();
  execFileSync("addpart", [whole, "1", "2048", "2048"]);
  try {
    const partition = `${whole}p1`;
    assert.equal(await readDeviceBytes(partition), 1024 * 1024);
    await readLayerFingerprint(partition, systemClock);
    assert.equal(await readDeviceWatch(partition), undefined);
  } finally {
    execFileSync("delpart", [whole, "1"]);
  }
});

test("device fingerprint: finds who may write a device, and a mount of it", async () => {
  await using fixture = await openFixture();
  const { path } = fixture.device;
  assert.deepEqual(await listDeviceWriters(path), []);
  assert.deepEqual([await isDeviceClaimed(path), await isDeviceReadOnly(path)], [false, false]);
  const reader = await open(path, "r");
  assert.deepEqual(await listDeviceWriters(path), []);
  await reader.close();
  const writer = await open(path, "r+");
  assert.deepEqual(await listDeviceWriters(path), [process.pid]);
  await writer.close();
  execFileSync("mkfs.ext4", ["-q", path]);
  await using folder = await createTempFolder();
  execFileSync("mount", [path, folder.path]);
  try {
    assert.equal(await isDeviceClaimed(path), true);
  } finally {
    execFileSync("umount", [folder.path]);
  }
});
