/** Proves that aligned memory suits direct I/O, and that alignment is told truly for every view of it. */
import assert from "node:assert/strict";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { createTempFolder } from "#testing/temp-folder.ts";
import { alignmentBytes, allocateAligned, isAligned } from "./aligned-memory.ts";

test("aligned memory: is zeroed, has the size asked for, and the kernel takes it for direct I/O", async () => {
  const memory = allocateAligned(3 * alignmentBytes, "private");
  assert.equal(memory.byteLength, 3 * alignmentBytes);
  assert.ok(memory.every((byte) => byte === 0));
  assert.ok(isAligned(memory, 0));
  memory.fill(7);
  await using folder = await createTempFolder();
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_DIRECT;
  const path = join(folder.path, "file");
  // Some file systems have no direct I/O at all; then nothing can be shown.
  const handle = await open(path, flags).catch((error: NodeJS.ErrnoException) => {
    assert.equal(error.code, "EINVAL");
  });
  if (handle === undefined) return;
  try {
    const { bytesWritten } = await handle.write(memory, 0, memory.byteLength, 0);
    assert.equal(bytesWritten, memory.byteLength);
  } finally {
    await handle.close();
  }
});

test("aligned memory: a view that begins or ends inside a page, an odd offset, and ordinary memory are not aligned", () => {
  const memory = allocateAligned(2 * alignmentBytes, "shared");
  assert.ok(isAligned(memory.subarray(alignmentBytes), 5 * alignmentBytes));
  assert.ok(!isAligned(memory.subarray(512), 0));
  assert.ok(!isAligned(memory.subarray(0, 512), 0));
  assert.ok(!isAligned(memory, 512));
  assert.ok(!isAligned(new Uint8Array(alignmentBytes), 0));
});
