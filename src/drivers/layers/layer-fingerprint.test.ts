/** Goal: a layer that was written is noticed, one that was only moved is not. Method: real files. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmod, copyFile, open, rename, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { assertLayerUnchanged, readLayerFingerprint } from "./layer-fingerprint.ts";

const sizeBytes = 1024 * 1024;

async function writeAt(path: string, offsetBytes: number): Promise<void> {
  const file = await open(path, "r+");
  await file.write(Buffer.from("x"), 0, 1, offsetBytes);
  await file.close();
}

async function isChanged(path: string, before: Awaited<ReturnType<typeof readLayerFingerprint>>) {
  try {
    await assertLayerUnchanged(path, before);
    return false;
  } catch (error) {
    assert.ok(isKluisError(error, "SnapshotBaseChanged"));
    assert.match(error.message, new RegExp(path));
    return true;
  }
}

test("layer fingerprint: notices a write at once, wherever it is", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "layer");
  await writeFile(path, Buffer.alloc(sizeBytes));
  for (const offsetBytes of [0, 70_000, 333_333, sizeBytes - 1, 1, 2, 3, 4, 5, 6, 7, 8]) {
    await writeAt(path, offsetBytes);
    const before = await readLayerFingerprint(path, systemClock);
    assert.equal(await isChanged(path, before), false);
    await writeAt(path, offsetBytes);
    assert.equal(await isChanged(path, before), true, `a write at ${String(offsetBytes)}`);
  }
});

test("layer fingerprint: notices growth, loss and another content with the old times", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "layer");
  await writeFile(path, Buffer.alloc(sizeBytes));
  const before = await readLayerFingerprint(path, systemClock);
  execFileSync("cp", ["-p", path, `${path}.times`]);
  await truncate(path, sizeBytes + 512);
  assert.equal(await isChanged(path, before), true);
  await truncate(path, sizeBytes);
  await writeAt(path, 5);
  execFileSync("touch", ["-r", `${path}.times`, path]);
  assert.equal(await isChanged(path, before), true, "sampled content differs");
  await rm(path);
  assert.equal(await isChanged(path, before), true);
});

test("layer fingerprint: a file that was moved, copied with its times or given rights is the same", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "layer");
  await writeFile(path, Buffer.alloc(sizeBytes, 7));
  const before = await readLayerFingerprint(path, systemClock);
  await chmod(path, 0o400);
  assert.equal(await isChanged(path, before), false);
  execFileSync("cp", ["-p", path, `${path}.copy`]);
  await rename(`${path}.copy`, path);
  assert.equal(await isChanged(path, before), false);
  await copyFile(path, `${path}.new`);
  await rename(`${path}.new`, path);
  assert.equal(await isChanged(path, before), true, "a copy without its times is not trusted");
});

test("layer fingerprint: knows files smaller than its samples", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "layer");
  await writeFile(path, "tiny");
  const before = await readLayerFingerprint(path, systemClock);
  assert.equal(await isChanged(path, before), false);
});
