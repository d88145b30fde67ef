// Goal: what an overlay or a bitmap names as changed is exactly what was changed, to the page.
// Method: random writes, zeros and discards by qemu-io, against a model in memory.
import assert from "node:assert/strict";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { bytesEqual } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { readImageInfo } from "#drivers/disk/image-info.ts";
import { openDiskImage, openKnownImage, readLayerStates } from "#drivers/disk/open-disk-image.ts";
import { readOverlayExtents } from "#drivers/disk/overlay-extents.ts";
import type { ChangedExtents } from "#ports/disk.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { mustRun, readByQemuImg, runQemuIo, startImageWriter, writeImage } from "./disk-images.ts";
import { startNbdServer } from "./nbd-servers.ts";

const PAGE = 4096;
const MIB = 1024 * 1024;
const SIZE_BYTES = 32 * MIB;
const SUBCLUSTERS = "extended_l2=on,cluster_size=128k";

function baseDisk(): MemoryDisk {
  const disk = new MemoryDisk(SIZE_BYTES);
  disk.write(0, createPrng(testSeed()).bytes(8 * MIB));
  return disk;
}

async function createOverlay(
  path: string,
  options: { readonly base: string; readonly format: string; readonly more?: readonly string[] },
): Promise<void> {
  const { base, format, more = [] } = options;
  const backing = ["-o", SUBCLUSTERS, "-b", base, "-F", format];
  await mustRun("qemu-img", ["create", "-q", "-f", "qcow2", ...backing, path, ...more]);
}

/** Random changes of whole pages: commands of qemu-io, the disk after them, and what changed. */
function randomChanges(disk: MemoryDisk): {
  readonly commands: readonly string[];
  readonly after: MemoryDisk;
  readonly pages: ReadonlyMap<number, "data" | "zero">;
} {
  const prng = createPrng(testSeed() + 1);
  const after = disk.snapshot();
  const pages = new Map<number, "data" | "zero">();
  const commands: string[] = [];
  for (let step = 0; step < 60; step++) {
    const count = 1 + prng.below(step % 10 === 0 ? 100 : 4);
    const first = prng.below(disk.sizeBytes / PAGE - count);
    const range = `${String(first * PAGE)} ${String(count * PAGE)}`;
    const pattern = 1 + prng.below(255);
    const kind = (["data", "data", "zero", "discard"] as const)[prng.below(4)];
    if (kind === "data") {
      commands.push(`write -P ${String(pattern)} ${range}`);
      after.write(first * PAGE, new Uint8Array(count * PAGE).fill(pattern));
    } else {
      commands.push(kind === "zero" ? `write -z ${range}` : `write -z -u ${range}`);
      after.zero(first * PAGE, count * PAGE);
    }
    for (let page = first; page < first + count; page++) {
      pages.set(page, kind === "data" ? "data" : "zero");
    }
  }
  return { commands, after, pages };
}

function toPages(changes: ChangedExtents): Map<number, "data" | "zero"> {
  const pages = new Map<number, "data" | "zero">();
  for (const { offsetBytes, lengthBytes, kind } of changes) {
    for (let at = offsetBytes; at < offsetBytes + lengthBytes; at += PAGE) {
      pages.set(at / PAGE, kind);
    }
  }
  return pages;
}

function inOrder<T>(pages: ReadonlyMap<number, T>): (readonly [number, T])[] {
  return [...pages].toSorted(([a], [b]) => a - b);
}

for (const format of ["raw", "qcow2"]) {
  test(`overlay on a ${format} base: names exactly the pages that were changed`, async () => {
    await using folder = await createTempFolder();
    const base = join(folder.path, "base");
    const top = join(folder.path, "top.qcow2");
    const disk = baseDisk();
    await writeImage(base, format, disk);
    await createOverlay(top, { base, format });
    const { after, commands, pages } = randomChanges(disk);
    await runQemuIo(top, "qcow2", commands);
    const { extents, sizeBytes } = await readOverlayExtents(top);
    assert.equal(sizeBytes, SIZE_BYTES);
    assert.deepEqual(inOrder(toPages(extents)), inOrder(pages));

    await using image = await imageAccess.openSource(top, { format: "qcow2" });
    const whole = new Uint8Array(SIZE_BYTES);
    await image.reader.read(0, whole);
    assert.ok(bytesEqual(whole, after.bytes()));
    assert.ok(image.backing !== undefined);
    assert.deepEqual(await image.backing.changes(), extents);
    await using below = await image.backing.open();
    await below.read(0, whole);
    assert.ok(bytesEqual(whole, disk.bytes()), "the backing is what it was");
    await using again = await imageAccess.openSource(base, { format: format as "raw" });
    assert.equal(again.identity, image.backing.identity);
  });
}

test("overlay: discards of the guest count as zeros", async () => {
  await using folder = await createTempFolder();
  const base = join(folder.path, "base");
  const top = join(folder.path, "top.qcow2");
  await writeImage(base, "raw", baseDisk());
  await createOverlay(top, { base, format: "raw" });
  await mustRun("qemu-io", ["-d", "unmap", "-f", "qcow2", "-c", "discard 1M 256k", top]);
  const { extents } = await readOverlayExtents(top);
  assert.deepEqual(extents, [{ offsetBytes: MIB, lengthBytes: 256 * 1024, kind: "zero" }]);
});

test("overlay: of three layers only the top one's changes are named", async () => {
  await using folder = await createTempFolder();
  const paths = ["base", "middle.qcow2", "top.qcow2"].map((name) => join(folder.path, name));
  const [base = "", middle = "", top = ""] = paths;
  await writeImage(base, "raw", baseDisk());
  await createOverlay(middle, { base, format: "raw" });
  await runQemuIo(middle, "qcow2", ["write -P 1 0 64k", "write -P 1 20M 4k"]);
  await createOverlay(top, { base: middle, format: "qcow2" });
  await runQemuIo(top, "qcow2", ["write -P 2 4k 4k"]);
  const { extents } = await readOverlayExtents(top);
  assert.deepEqual(extents, [{ offsetBytes: 4096, lengthBytes: 4096, kind: "data" }]);
});

test("overlay: larger than its base, names what was written in the new part", async () => {
  await using folder = await createTempFolder();
  const base = join(folder.path, "base");
  const top = join(folder.path, "top.qcow2");
  await writeImage(base, "raw", baseDisk());
  await createOverlay(top, { base, format: "raw", more: ["48M"] });
  await runQemuIo(top, "qcow2", ["write -P 1 40M 8k"]);
  const { extents, sizeBytes } = await readOverlayExtents(top);
  assert.equal(sizeBytes, 48 * MIB);
  assert.deepEqual(extents, [{ offsetBytes: 40 * MIB, lengthBytes: 8192, kind: "data" }]);
});

test("overlay: replaced while its processes start, it is not read as half the old and half the new one", async () => {
  await using folder = await createTempFolder();
  const names = ["base", "o.qcow2", "later.qcow2"].map((name) => join(folder.path, name));
  const [base = "", overlay = "", later = ""] = names;
  await writeImage(base, "raw", baseDisk());
  await createOverlay(overlay, { base, format: "raw" });
  await createOverlay(later, { base, format: "raw" });
  const info = await readImageInfo(overlay, { format: "qcow2" });
  const states = await readLayerStates(info);
  await rename(later, overlay);
  await assert.rejects(openKnownImage(info, undefined, states), (error) =>
    isKluisError(error, "ImageChangedDuringRead"),
  );
});

test("overlay: a frozen layer can be read below a writer, an active one is refused", async () => {
  await using folder = await createTempFolder();
  const base = join(folder.path, "base");
  const frozen = join(folder.path, "frozen.qcow2");
  const active = join(folder.path, "active.qcow2");
  const disk = baseDisk();
  await writeImage(base, "raw", disk);
  await createOverlay(frozen, { base, format: "raw" });
  await runQemuIo(frozen, "qcow2", ["write -P 9 0 4k"]);
  disk.write(0, new Uint8Array(4096).fill(9));
  await createOverlay(active, { base: frozen, format: "qcow2" });
  await using writer = await startImageWriter(active, "qcow2", ["write -P 3 0 1M"]);
  assert.deepEqual((await readOverlayExtents(frozen)).extents, [
    { offsetBytes: 0, lengthBytes: 4096, kind: "data" },
  ]);
  for (const [path, format] of [
    [frozen, "qcow2"],
    [base, "raw"],
  ] as const) {
    await using reader = await openDiskImage(path, { format });
    const sector = new Uint8Array(512);
    await reader.read(8192, sector);
    assert.ok(bytesEqual(sector, disk.bytes().subarray(8192, 8704)));
    await reader.assertUnchanged();
  }
  await assert.rejects(readOverlayExtents(active), (error) => isKluisError(error, "ImageInUse"));
  await assert.rejects(openDiskImage(active), (error) => isKluisError(error, "ImageInUse"));
  assert.equal(writer.exitStatus, undefined);
});

test("bitmap: an export names exactly the pages that its bitmap recorded", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "disk.qcow2");
  const socketPath = join(folder.path, "s");
  const disk = baseDisk();
  await writeImage(path, "qcow2", disk);
  await mustRun("qemu-img", ["bitmap", "--add", "-g", "4096", path, "since"]);
  const { after, commands, pages } = randomChanges(disk);
  await runQemuIo(path, "qcow2", commands);
  const args = ["-r", "-f", "qcow2", "-B", "since", "--persistent", "--shared=4"];
  await using server = await startNbdServer("qemu-nbd", [...args, `--socket=${socketPath}`, path], {
    socketPath,
  });
  const uri = `nbd+unix:///?socket=${socketPath}`;
  await using image = await imageAccess.openSource(uri, { bitmap: "since" });
  assert.ok(image.bitmap !== undefined);
  const changed = toPages(await image.bitmap.changes());
  // Without an overlay, data clusters that lie around a zeroed page stay allocated: what was zeroed
  // may come as data, but no page may be missing or too many.
  assert.deepEqual(
    inOrder(changed).map(([page]) => page),
    inOrder(pages).map(([page]) => page),
  );
  const whole = new Uint8Array(SIZE_BYTES);
  await image.reader.read(0, whole);
  assert.ok(bytesEqual(whole, after.bytes()));
  assert.ok(bytesEqual(await readByQemuImg(path, "qcow2"), whole));
  for (const [page, kind] of changed) {
    const content = whole.subarray(page * PAGE, page * PAGE + PAGE);
    if (kind === "zero") assert.ok(content.every((byte) => byte === 0));
  }
  await assert.rejects(imageAccess.openSource(uri, { bitmap: "other" }), (error) =>
    isKluisError(error, "NbdUnsupported"),
  );
  assert.equal(server.exitStatus, undefined);
});
