/** Goal: increments of the bench are those of a guest. Method: snapshots before and after writes. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { createGeneratedReader } from "#testing/generated-disk.ts";
import { WrittenDisk } from "./written-disk.ts";

const pageBytes = 4096;
const pages = 16;

async function readPages(reader: ReturnType<WrittenDisk["snapshot"]>): Promise<readonly string[]> {
  const content = new Uint8Array(pages * pageBytes);
  await reader.read(0, content);
  return Array.from({ length: pages }, (_, page) =>
    Buffer.from(content.subarray(page * pageBytes, (page + 1) * pageBytes)).toString("base64"),
  );
}

test("written disk: tells what changed, and snapshots keep what was", async () => {
  const disk = new WrittenDisk(
    createGeneratedReader({ sizeBytes: pages * pageBytes, seed: 3 }),
    pages,
  );
  const first = await readPages(disk.snapshot());
  const before = disk.snapshot();
  assert.deepEqual(disk.write([2, 3, 9]), [
    { offsetBytes: 2 * pageBytes, lengthBytes: 2 * pageBytes, kind: "data" },
    { offsetBytes: 9 * pageBytes, lengthBytes: pageBytes, kind: "data" },
  ]);
  const second = await readPages(disk.snapshot());
  disk.write([9]);
  const third = await readPages(disk.snapshot());
  const differing = (a: readonly string[], b: readonly string[]): readonly number[] =>
    a.flatMap((page, at) => (page === b[at] ? [] : [at]));
  assert.deepEqual(differing(first, second), [2, 3, 9]);
  assert.deepEqual(differing(second, third), [9]);
  assert.deepEqual(await readPages(before), first);
});
