/**
 * Goal: layers of a LUKS disk are LUKS, 4 KiB fine, and show and merge exactly what was written; restores
 * make LUKS images; no passphrase is in an argument or an environment. Method: QEMU's tools on real
 * images, raw LUKS and qcow2, against a model in memory.
 */
import assert from "node:assert/strict";
import { open, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { imageKeyId, runMeasured, withImageKey } from "#drivers/disk/image-key.ts";
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";
import { readOverlayExtents } from "#drivers/disk/overlay-extents.ts";
import { commitLayers } from "#drivers/layers/commit-layers.ts";
import { qemuFormat, type DiskLayer } from "#drivers/layers/disk-layer.ts";
import { toLayerNode } from "#drivers/layers/layer-node.ts";
import {
  createOverlay,
  isOverlayEmpty,
  readBackingPath,
  readVirtualSize,
  rebaseOverlay,
  whyNotSealed,
} from "#drivers/layers/overlay.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { watchProcesses } from "#testing/process-canary.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { sliceOf } from "#testing/slice.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { mustRun } from "./disk-images.ts";

const MIB = 1024 * 1024;
const PAGE = 4096;
const SIZE_BYTES = 8 * MIB;
const canary = `canary-${String(createPrng(testSeed()).below(1e9))} wört`;
const passphrase = Buffer.from(canary);
const timeoutMs = 120_000;
const formats = ["raw", "qcow2"] as const;

/** Runs a tool of QEMU's with the passphrase at hand. */
async function runKeyed(tool: string, args: readonly string[]): Promise<void> {
  const [command = "", ...rest] = tool.split(" ");
  const result = await withImageKey(passphrase, (key) =>
    runMeasured(() =>
      runTool(command, [...rest, ...key.args, ...args], { timeoutMs, ...key.options }),
    ),
  );
  assertToolSucceeded(tool, result);
}

async function createOriginal(
  folder: string,
  format: DiskLayer["format"],
  unlockMs = 10,
): Promise<DiskLayer> {
  const path = join(folder, `original.${format}`);
  const [kind, prefix] = format === "raw" ? ["luks", ""] : ["qcow2", "encrypt."];
  const how = format === "raw" ? [] : ["encrypt.format=luks"];
  const options = [
    ...how,
    `${prefix}key-secret=${imageKeyId}`,
    `${prefix}iter-time=${String(unlockMs)}`,
  ].join(",");
  await runKeyed("qemu-img create", [
    "-q",
    "-f",
    kind ?? "",
    "-o",
    options,
    path,
    String(SIZE_BYTES),
  ]);
  return { number: 0, path, format, secretId: "s" };
}

/** A layer on others, made as a snapshot makes it, with pages written to it. */
async function addLayer(
  chain: readonly DiskLayer[],
  pages: ReadonlyMap<number, number>,
): Promise<DiskLayer> {
  const [original, backing] = [chain[0] as DiskLayer, chain.at(-1) as DiskLayer];
  const number = chain.length;
  const path = `${original.path}.kluis-${String(number)}.qcow2`;
  const seal = { passphrase, original };
  await createOverlay({ path, backing, sizeBytes: SIZE_BYTES, seal });
  const layer: DiskLayer = { number, path, format: "qcow2", secretId: "s" };
  assert.ok(await isOverlayEmpty(layer, passphrase));
  await write(layer, chain, pages);
  assert.ok(!(await isOverlayEmpty(layer, passphrase)));
  return layer;
}

async function write(
  layer: DiskLayer,
  below: readonly DiskLayer[],
  pages: ReadonlyMap<number, number>,
): Promise<void> {
  const commands = [...pages].flatMap(([page, value]) => {
    return ["-c", `write -P ${String(value)} ${String(page * PAGE)} ${String(PAGE)}`];
  });
  await runKeyed("qemu-io", [...commands, toLayerNode(layer, below)]);
}

async function readAll(layer: DiskLayer, key = passphrase): Promise<Buffer> {
  await using reader = await openDiskImage(layer.path, {
    format: qemuFormat(layer),
    passphrase: key,
  });
  assert.equal(reader.sizeBytes, SIZE_BYTES);
  const bytes = Buffer.alloc(SIZE_BYTES);
  for (let at = 0; at < SIZE_BYTES; at += MIB) await reader.read(at, bytes.subarray(at, at + MIB));
  return bytes;
}

function rejectsAs(work: Promise<unknown>, code: ErrorCode, words: RegExp): Promise<void> {
  return assert.rejects(work, (error) => {
    assert.ok(isKluisError(error, code), String(error));
    assert.match(error.message, words);
    return true;
  });
}

/** Of the key slot in use, whose number is the first of all. */
async function readIterations(path: string): Promise<number> {
  const info = await mustRun("qemu-img", ["info", "--output=json", path]);
  return Number(/"iters": (\d+)/.exec(info)?.[1]);
}

/** The pages as the whole disk. */
function planContent(layers: readonly ReadonlyMap<number, number>[]): Buffer {
  const content = Buffer.alloc(SIZE_BYTES);
  for (const pages of layers) {
    for (const [page, value] of pages) content.fill(value, page * PAGE, (page + 1) * PAGE);
  }
  return content;
}

const written = [
  new Map(Array.from({ length: SIZE_BYTES / PAGE }, (_, page) => [page, (page % 251) + 1])),
  new Map([
    [1, 10],
    [33, 11],
    [500, 12],
  ]),
  new Map([
    [33, 20],
    [900, 21],
  ]),
  new Map([[7, 30]]),
];

for (const format of sliceOf(formats, 1)) {
  test(`encrypted layers: over ${format} they tell, show and merge what was written`, async () => {
    await using folder = await createTempFolder();
    await using canaries = watchProcesses(canary);
    const original = await createOriginal(folder.path, format);
    assert.equal(await whyNotSealed(original), undefined);
    assert.equal(await readVirtualSize(original), SIZE_BYTES);
    await write(original, [], written[0] ?? new Map<number, number>());
    const chain = [original];
    for (const pages of written.slice(1)) chain.push(await addLayer(chain, pages));
    const [, first, second, third] = chain as [DiskLayer, DiskLayer, DiskLayer, DiskLayer];
    assert.equal(await readVirtualSize(third), SIZE_BYTES);
    const info = await mustRun("qemu-img", ["info", "--output=json", second.path]);
    assert.match(info, /"extended-l2": true/);
    assert.match(info, /"encrypted": true/);

    const { extents } = await readOverlayExtents(first.path, { passphrase });
    const changed = extents.map(({ offsetBytes, lengthBytes }) => [
      offsetBytes / PAGE,
      lengthBytes,
    ]);
    assert.deepEqual(changed, [
      [1, PAGE],
      [33, PAGE],
      [500, PAGE],
    ]);
    assert.ok((await readAll(second)).equals(planContent(written.slice(0, 3))));
    await rejectsAs(readAll(second, Buffer.from("other")), "DiskKeyUnusable", /key slots/);

    // Two layers into the original, as an expiry does without a machine.
    await commitLayers({
      chain: chain.slice(0, 3),
      into: 0,
      passphrase,
      timeoutMs,
      signal: undefined,
    });
    assert.ok((await readAll(third)).equals(planContent(written)));
    await rebaseOverlay(third, original, passphrase);
    assert.equal(await readBackingPath(third.path), original.path);
    assert.ok((await readAll(third)).equals(planContent(written)));
    assert.ok((await readAll(original)).equals(planContent(written.slice(0, 3))));
    for (const { path } of chain) {
      assert.ok(!(await readFile(path)).includes(Buffer.alloc(64, 21)), `${path} is in the clear`);
    }
    assert.ok(canaries.looks > 10);
  });
}

test("encrypted layers: one is never made in the clear, under another passphrase, or easier to guess", async () => {
  await using folder = await createTempFolder();
  const original = await createOriginal(folder.path, "raw", 200);
  const path = join(folder.path, "layer");
  const plan = { path, backing: original, sizeBytes: SIZE_BYTES };
  await assert.rejects(createOverlay(plan), /encrypted where its disk is/);
  const seal = { passphrase: Buffer.from("other"), original };
  await rejectsAs(createOverlay({ ...plan, seal }), "DiskKeyUnusable", /opens none/);
  await assert.rejects(stat(path), { code: "ENOENT" });
  assert.match((await whyNotSealed({ ...original, format: "qcow2" })) ?? "", /no qcow2 image/);
  await createOverlay({ ...plan, seal: { passphrase, original } });
  const [have, wanted] = [await readIterations(path), await readIterations(original.path)];
  assert.ok(have >= 0.6 * wanted, `${String(have)} of ${String(wanted)} iterations`);
  // One whose making was cut off before it could be opened is as good as empty.
  await mustRun("qemu-img", ["create", "-q", "-f", "qcow2", path, String(SIZE_BYTES)]);
  assert.ok(await isOverlayEmpty({ path, format: "qcow2", secretId: "s" }, passphrase));
  const header = await open(original.path, "r+");
  await header.write(Buffer.from([0, 2]), 0, 2, 6);
  await header.close();
  assert.match((await whyNotSealed(original)) ?? "", /LUKS 2/);
});

for (const format of sliceOf(formats, 1)) {
  test(`encrypted targets: a restore to ${format} makes a LUKS image of the same content`, async () => {
    await using folder = await createTempFolder();
    const place = join(folder.path, "target");
    const request = { place, format, sizeBytes: SIZE_BYTES, overwrite: false, passphrase };
    await using writer = await imageAccess.createTarget(request);
    const marker = Buffer.alloc(PAGE, "marker");
    await writer.write(3 * PAGE, marker);
    await writer.commit();
    const content = Buffer.alloc(SIZE_BYTES);
    marker.copy(content, 3 * PAGE);
    const layer: DiskLayer = { number: 0, path: place, format, secretId: "s" };
    assert.equal(await whyNotSealed(layer), undefined);
    assert.ok((await readAll(layer)).equals(content));
    assert.ok(!(await readFile(place)).includes("marker"));
  });
}
