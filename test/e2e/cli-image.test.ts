/**
 * Goal: whatever way an image takes into the vault, it comes back byte for byte. Method: the real
 * command on real images, judged by qemu-img compare.
 */
import assert from "node:assert/strict";
import { copyFile, stat, truncate } from "node:fs/promises";
import { test } from "node:test";

import type { RestoreOutput, VerifyOutput } from "#contract/cli-output.ts";
import { windowBytes } from "#formats/geometry.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { sampleWindows } from "#vault/writer/sample-unchanged.ts";
import { mustRun, runQemuIo, writeImage, writeRawImage } from "../integration/disk-images.ts";
import { startQemuNbdServer } from "../integration/nbd-servers.ts";
import { type CliWorld, createWorld } from "./cli.ts";

const MiB = 1024 * 1024;

function randomDisk(sizeBytes: number, seed: number): MemoryDisk {
  const prng = createPrng(testSeed() + seed);
  const disk = new MemoryDisk(sizeBytes);
  for (let at = 0; at + MiB <= sizeBytes / 2; at += MiB) disk.write(at, prng.bytes(MiB));
  disk.write(sizeBytes - 4096, prng.bytes(4096));
  return disk;
}

/** Restores and compares with `image` as qemu-img reads it. */
async function assertRestores(
  world: CliWorld,
  item: string,
  image: string,
  words: readonly string[] = [],
): Promise<void> {
  for (const target of ["back.raw", "back.qcow2"]) {
    const restore = ["image", "restore", item, target, "--overwrite", ...world.vault, ...words];
    const result = await world.json<RestoreOutput>(restore);
    assert.equal(result.disks[0]?.format, target.slice("back.".length));
    await mustRun("qemu-img", ["compare", image, world.at(target)]);
  }
}

async function makeOverlay(world: CliWorld, base: string, format: string, name: string) {
  const layout = ["-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k"];
  const below = ["-b", world.at(base), "-F", format];
  await mustRun("qemu-img", ["create", "-q", ...layout, ...below, world.at(name)]);
}

test("cli image: raw, changed in place, is compared by checksum and every point restores", async () => {
  await using world = await createWorld();
  const disk = randomDisk(16 * MiB, 1);
  await writeRawImage(world.at("a.raw"), disk);
  const first = await world.backup("a.raw");
  assert.equal(first.point.itemId, world.at("a.raw"));
  assert.equal(first.point.disks[0]?.tracking, "full");
  await copyFile(world.at("a.raw"), world.at("a1.raw"));
  await runQemuIo(world.at("a.raw"), "raw", ["write -P 7 100k 4k", "write -z 2M 1M"]);
  const second = await world.backup("a.raw");
  const [found] = second.point.disks;
  assert.equal(found?.tracking, "checksum");
  assert.ok((found?.newBytes ?? 0) <= 2 * 4096);
  assert.equal(second.point.basePointId, first.point.id);
  await assertRestores(world, "a.raw", world.at("a.raw"));
  await assertRestores(world, "a.raw", world.at("a1.raw"), ["--point", first.point.id]);
});

/** What changed is read, and a sample of what did not. */
function assertExamined(examinedBytes: number, changedBytes: number): void {
  const most = changedBytes + sampleWindows * windowBytes;
  assert.ok(examinedBytes >= changedBytes && examinedBytes <= most, `${examinedBytes} bytes`);
}

test("cli image: overlays send their changes only, over a chain of points", async () => {
  await using world = await createWorld();
  await writeImage(world.at("l0.qcow2"), "qcow2", randomDisk(32 * MiB, 2));
  const item = ["--item", "db"];
  await world.backup("l0.qcow2", item);
  let below = "l0.qcow2";
  for (const at of [1, 2, 3]) {
    const name = `l${at}.qcow2`;
    await makeOverlay(world, below, "qcow2", name);
    const writes = [`write -P ${at} ${at}M 4k`, `write -P ${at} ${at * 3}M 12k`];
    await runQemuIo(world.at(name), "qcow2", writes);
    const { point } = await world.backup(name, item);
    assert.equal(point.disks[0]?.tracking, "snapshot-difference", point.disks[0]?.trackingReason);
    assertExamined(point.disks[0].examinedBytes, 4 * 4096);
    await assertRestores(world, "db", world.at(name));
    below = name;
  }
});

test("cli image: an overlay on a file that was written since is not trusted", async () => {
  await using world = await createWorld();
  await writeRawImage(world.at("base.raw"), randomDisk(8 * MiB, 3));
  await world.backup("base.raw", ["--item", "db"]);
  await runQemuIo(world.at("base.raw"), "raw", ["write -P 9 3M 4k"]);
  await makeOverlay(world, "base.raw", "raw", "top.qcow2");
  const { point } = await world.backup("top.qcow2", ["--item", "db"]);
  assert.equal(point.disks[0]?.tracking, "checksum");
  assert.match(point.disks[0].trackingReason ?? "", /not the file of the last recovery point/);
  await assertRestores(world, "db", world.at("top.qcow2"));
});

test("cli image: a resized image is complete at every size", async () => {
  await using world = await createWorld();
  await writeRawImage(world.at("a.raw"), randomDisk(6 * MiB, 4));
  await world.backup("a.raw");
  for (const sizeBytes of [9 * MiB, 9 * MiB + 512, 2 * MiB - 512, 5 * MiB]) {
    await truncate(world.at("a.raw"), sizeBytes);
    await runQemuIo(world.at("a.raw"), "raw", [`write -P 3 ${sizeBytes - 512} 512`]);
    const { point } = await world.backup("a.raw");
    assert.equal(point.disks[0]?.sizeBytes, sizeBytes);
    await assertRestores(world, "a.raw", world.at("a.raw"));
  }
});

test("cli image: an NBD export with a dirty bitmap sends what the bitmap names", async () => {
  await using world = await createWorld();
  await writeImage(world.at("a.qcow2"), "qcow2", randomDisk(16 * MiB, 5));
  const uri = `nbd+unix:///?socket=${world.at("nbd")}`;
  {
    await using _ = await startQemuNbdServer(world.at("nbd"), [
      "-r",
      "-f",
      "qcow2",
      world.at("a.qcow2"),
    ]);
    const { point } = await world.backup(uri, ["--item", "db"]);
    assert.equal(point.disks[0]?.tracking, "full");
  }
  const bitmap = ["bitmap", "--add", "-g", "4096", world.at("a.qcow2"), "kluis"];
  await mustRun("qemu-img", bitmap);
  await runQemuIo(world.at("a.qcow2"), "qcow2", ["write -P 5 5M 4k", "write -P 6 7M 4k"]);
  await using _ = await startQemuNbdServer(world.at("nbd"), [
    "-r",
    "-f",
    "qcow2",
    "-B",
    "kluis",
    world.at("a.qcow2"),
  ]);
  const { point } = await world.backup(uri, ["--item", "db", "--bitmap", "kluis"]);
  assert.equal(point.disks[0]?.tracking, "dirty-bitmap");
  assertExamined(point.disks[0].examinedBytes, 8192);
  await world.ok(["image", "restore", "db", "back.raw", ...world.vault]);
  await mustRun("qemu-img", ["compare", uri, world.at("back.raw")]);
});

test("cli image: restores into an NBD export in place", async () => {
  await using world = await createWorld();
  await writeRawImage(world.at("a.raw"), randomDisk(8 * MiB, 6));
  await world.backup("a.raw");
  await writeRawImage(world.at("t.raw"), randomDisk(8 * MiB, 7));
  const uri = `nbd+unix:///?socket=${world.at("nbd")}`;
  {
    await using _ = await startQemuNbdServer(world.at("nbd"), ["-f", "raw", world.at("t.raw")]);
    await world.ok(["image", "restore", "a.raw", uri, "--overwrite", ...world.vault]);
  }
  await mustRun("qemu-img", ["compare", world.at("a.raw"), world.at("t.raw")]);
});

test("cli image: restored files are sparse, private, and named only when complete", async () => {
  await using world = await createWorld();
  await writeRawImage(world.at("a.raw"), randomDisk(64 * MiB, 8));
  await world.backup("a.raw");
  await world.ok(["image", "restore", "a.raw", "b.raw", ...world.vault]);
  const { blocks, mode, size } = await stat(world.at("b.raw"));
  assert.equal(size, 64 * MiB);
  assert.ok(blocks * 512 < 40 * MiB, `${blocks * 512} bytes allocated`);
  assert.equal(mode & 0o777, 0o600);
});

test("cli image: the vault verifies sound, as a whole, by item and by point", async () => {
  await using world = await createWorld();
  await writeRawImage(world.at("a.raw"), randomDisk(8 * MiB, 9));
  const { point } = await world.backup("a.raw");
  await world.backup("a.raw", ["--item", "other"]);
  for (const words of [[], ["--item", "a.raw"], ["--point", point.id]]) {
    const report = await world.json<VerifyOutput>(["image", "verify", ...world.vault, ...words]);
    assert.equal(report.verdict, "sound");
    assert.equal(report.points.length, words.length === 0 ? 2 : 1);
    assert.ok(report.blocksChecked > 0);
  }
});
