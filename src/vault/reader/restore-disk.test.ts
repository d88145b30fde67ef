// Goal: a restore copies every byte, in few large parts, and after an error or abort nothing goes
// on behind the caller's back and nothing is committed.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { bytesEqual } from "#base/bytes.ts";
import type { DiskReader, DiskWriter, Extent } from "#ports/disk.ts";
import { createMemoryReader, createMemoryTarget, MemoryDisk } from "#testing/memory-disk.ts";
import { createSeededRandom, readTestSeed } from "#testing/seeded-random.ts";
import { restoreDisk } from "./restore-disk.ts";

const mib = 1024 * 1024;
const segmentBytes = 4 * mib;
const quiet = { segments: 3, segmentBytes, signal: undefined, onProgress: () => {} };

/** A reader of `content` that tells these extents. */
function readerOf(content: MemoryDisk, extents: readonly Extent[]): DiskReader {
  return {
    ...createMemoryReader(content),
    async *extents() {
      yield* extents;
    },
  };
}

/** Cuts a disk of `content` into extents of these lengths in units of 64 KiB, alternately of data and zeros. */
function toExtents(sizeBytes: number, lengths: readonly number[]): Extent[] {
  const extents: Extent[] = [];
  let offsetBytes = 0;
  for (let at = 0; offsetBytes < sizeBytes; at++) {
    const wanted = (lengths[at % lengths.length] ?? 1) * 65_536;
    const lengthBytes = Math.min(wanted, sizeBytes - offsetBytes);
    extents.push({ offsetBytes, lengthBytes, kind: at % 3 === 1 ? "zero" : "data" });
    offsetBytes += lengthBytes;
  }
  return extents;
}

test("restore disk: copies any disk byte for byte, and calls no part empty or too large", async () => {
  const random = createSeededRandom("restore");
  const lengths = fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(lengths, fc.nat(12 * 2048), async (runs, sectors) => {
      const content = new MemoryDisk(sectors * 512);
      const extents = toExtents(content.sizeBytes, runs);
      for (const { kind, offsetBytes, lengthBytes } of extents) {
        if (kind === "data") content.write(offsetBytes, random.bytes(Math.min(5000, lengthBytes)));
      }
      const parts: [number, number][] = [];
      const target = createMemoryTarget(content.sizeBytes, {
        onWrite: (offsetBytes, lengthBytes) => void parts.push([offsetBytes, lengthBytes]),
      });
      const progress: number[] = [];
      const totals = await restoreDisk(readerOf(content, extents), target.writer, {
        ...quiet,
        onProgress: (doneBytes) => progress.push(doneBytes),
      });
      assert.ok(bytesEqual(target.committed()?.bytes() ?? new Uint8Array(), content.bytes()));
      const zero = extents.reduce((sum, e) => sum + (e.kind === "zero" ? e.lengthBytes : 0), 0);
      assert.deepEqual(totals, { dataBytes: content.sizeBytes - zero, zeroBytes: zero });
      assert.equal(progress.at(-1) ?? 0, content.sizeBytes);
      assert.ok(progress.every((done, at) => at === 0 || done > (progress[at - 1] as number)));
      let end = 0;
      for (const [offsetBytes, lengthBytes] of parts.sort((a, b) => a[0] - b[0])) {
        assert.ok(offsetBytes === end && lengthBytes > 0);
        end += lengthBytes;
      }
      assert.ok(parts.length <= 2 * extents.length + content.sizeBytes / segmentBytes + 1);
    }),
    { seed: readTestSeed(), numRuns: 50 },
  );
});

/** A disk of 8 MiB, half of it data. */
function createContent(): MemoryDisk {
  const random = createSeededRandom("faults");
  const content = new MemoryDisk(8 * mib);
  for (let at = 0; at < 8; at += 2) content.write(at * mib, random.bytes(mib));
  return content;
}

/** Makes the call number `at` of a restore fail; tells how many calls there were and are under way. */
function breakAt(at: number): {
  reader: DiskReader;
  writer: DiskWriter;
  calls: () => number;
  running: () => number;
  isCommitted: () => boolean;
} {
  const content = createContent();
  let calls = 0;
  let running = 0;
  async function pass(): Promise<void> {
    const isLast = calls++ === at;
    running++;
    for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
    running--;
    if (isLast) throw new Error("broken");
  }
  const reader = createMemoryReader(content, { onRead: pass });
  const target = createMemoryTarget(content.sizeBytes, { onWrite: pass });
  return {
    reader,
    writer: target.writer,
    calls: () => calls,
    running: () => running,
    isCommitted: () => target.committed() !== undefined,
  };
}

test("restore disk: whatever read or write fails, it ends with that error and nothing goes on", async () => {
  const whole = breakAt(-1);
  await restoreDisk(whole.reader, whole.writer, quiet);
  assert.ok(whole.isCommitted());
  for (let at = 0; at < whole.calls(); at++) {
    const run = breakAt(at);
    await assert.rejects(restoreDisk(run.reader, run.writer, quiet), /broken/);
    assert.equal(run.running(), 0, `call ${at}`);
    assert.equal(run.isCommitted(), false);
    const { calls } = run;
    const before = calls();
    for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate);
    assert.equal(calls(), before, "nothing starts behind the error");
  }
});

test("restore disk: an abort at any moment ends it with the reason", async () => {
  for (let turns = 0; turns < 40; turns += 3) {
    const run = breakAt(-1);
    const controller = new AbortController();
    const { signal } = controller;
    const restored = restoreDisk(run.reader, run.writer, { ...quiet, signal }).then(
      () => assert.ok(run.isCommitted()),
      (error: unknown) => {
        assert.match(String(error), /enough/);
        assert.equal(run.isCommitted(), false);
        assert.equal(run.running(), 0);
      },
    );
    for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate);
    controller.abort(new Error("enough"));
    await restored;
  }
});

test("restore disk: refuses a smaller target and extents that do not cover the disk", async () => {
  const content = new MemoryDisk(mib);
  const assertion = { name: "AssertionError" };
  const small = createMemoryTarget(mib - 512);
  await assert.rejects(restoreDisk(createMemoryReader(content), small.writer, quiet), assertion);
  await restoreDisk(createMemoryReader(content), createMemoryTarget(2 * mib).writer, quiet);
  const target = createMemoryTarget(mib);
  const half: Extent[] = [{ offsetBytes: 0, lengthBytes: mib / 2, kind: "data" }];
  await assert.rejects(restoreDisk(readerOf(content, half), target.writer, quiet), assertion);
  assert.equal(target.committed(), undefined);
});
