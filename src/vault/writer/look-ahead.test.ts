// Goal: disks that are read whole are asked at once, and nobody is asked any more when the wait is over.
import assert from "node:assert/strict";
import { test } from "node:test";

import { present } from "#base/assert.ts";
import { windowBytes } from "#formats/geometry.ts";
import type { DiskReader } from "#ports/disk.ts";
import type { DiskInput } from "#vault/writer/point-writer.ts";
import { LookAhead } from "./look-ahead.ts";

function createDisk(extents: DiskReader["extents"]): DiskInput {
  const reader: DiskReader = {
    sizeBytes: 4 * windowBytes,
    readsInFlight: 1,
    read: () => Promise.reject(new Error("nothing is read")),
    extents,
    assertUnchanged: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  return { name: "disk", reader, tracking: "full" };
}

test("look ahead: tells the windows of a disk that is read whole, and asks no other", async () => {
  const whole = createDisk(async function* () {
    await Promise.resolve();
    yield { offsetBytes: windowBytes, lengthBytes: 2 * windowBytes, kind: "data" };
  });
  const base = { disk: { name: "disk", sizeBytes: 0 }, reader: whole.reader };
  const changed = { ...whole, increment: { base, changes: [] } } as unknown as DiskInput;
  await using ahead = new LookAhead([whole, changed], undefined);
  const [first, second] = ahead.disks;
  assert.deepEqual(await first?.dataWindows, [{ firstWindow: 1, windows: 2 }]);
  assert.equal(second, changed);
});

test("look ahead: its end ends the asking, and an error waits for who wants to know", async () => {
  const { promise: asked, resolve } = Promise.withResolvers<void>();
  let hasEnded = false;
  const silent = createDisk(async function* (signal) {
    yield* [];
    resolve();
    try {
      await new Promise((_, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason as Error));
      });
    } finally {
      hasEnded = true;
    }
  });
  const broken = createDisk(async function* () {
    yield* [];
    await Promise.reject(new Error("the disk is broken"));
  });
  const ahead = new LookAhead([silent, broken], new AbortController().signal);
  await asked;
  await ahead[Symbol.asyncDispose]();
  assert.equal(hasEnded, true);
  const [first, second] = ahead.disks;
  await assert.rejects(present(first?.dataWindows, "it was asked"), { code: "Cancelled" });
  await assert.rejects(present(second?.dataWindows, "it was asked"), /is broken/);
});
