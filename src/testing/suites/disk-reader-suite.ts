/** What every DiskReader must do; each driver runs this suite on what it opens. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesEqual, isZero } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import type { DiskReader, Extent } from "#ports/disk.ts";
import { MemoryDisk } from "../memory-disk.ts";
import { createPrng, testSeed } from "../seed.ts";

/** One opened disk. */
export interface DiskReaderFixture extends AsyncDisposable {
  readonly reader: DiskReader;
  /** Writes one sector of the disk behind the reader's back; absent where nothing can. */
  readonly changeBehind?: () => Promise<void>;
}

/** How the suite is run on one driver. */
export interface DiskReaderSuite {
  /** Makes a disk that holds `content` and opens it. */
  readonly open: (content: MemoryDisk) => Promise<DiskReaderFixture>;
  /** Whether holes of 1 MiB must come as `zero` extents. */
  readonly reportsHoles: boolean;
}

const GUARD = 0xa5;
const MIB = 1024 * 1024;

/** Declares the tests of the suite for the driver called `name`. */
export function testDiskReader(name: string, suite: DiskReaderSuite): void {
  test(`${name}: tells a usable size and parallelism`, async () => {
    await using fixture = await suite.open(sparseContent());
    const { reader } = fixture;
    assert.equal(reader.sizeBytes, sparseContent().sizeBytes);
    assert.equal(reader.sizeBytes % 512, 0);
    assert.ok(reader.readsInFlight >= 1 && reader.readsInFlight <= 64);
  });

  test(`${name}: reads the whole disk in pieces of any size`, async () => {
    const content = sparseContent();
    await using fixture = await suite.open(content);
    for (const pieceBytes of [4096, 256 * 1024, 4 * MIB]) {
      const whole = new Uint8Array(content.sizeBytes);
      for (let at = 0; at < whole.byteLength; at += pieceBytes) {
        await fixture.reader.read(at, whole.subarray(at, at + pieceBytes));
      }
      assert.ok(bytesEqual(whole, content.bytes()), `pieces of ${String(pieceBytes)}`);
    }
  });

  test(`${name}: reads random ranges that overlap in time, and nothing beside them`, async () => {
    const prng = createPrng(testSeed());
    const content = sparseContent();
    const whole = content.bytes();
    await using fixture = await suite.open(content);
    await Promise.all(
      Array.from({ length: 200 }, async () => {
        const lengthBytes = prng.below(300_000);
        const offsetBytes = prng.below(content.sizeBytes - lengthBytes + 1);
        const buffer = new Uint8Array(lengthBytes + 128).fill(GUARD);
        const target = buffer.subarray(64, 64 + lengthBytes);
        await fixture.reader.read(offsetBytes, target);
        assert.ok(bytesEqual(target, whole.subarray(offsetBytes, offsetBytes + lengthBytes)));
        for (const guard of [buffer.subarray(0, 64), buffer.subarray(64 + lengthBytes)]) {
          assert.ok(guard.every((byte) => byte === GUARD));
        }
      }),
    );
  });

  test(`${name}: reads the last sector and an empty range at the end`, async () => {
    const content = sparseContent();
    await using fixture = await suite.open(content);
    const sector = new Uint8Array(512);
    await fixture.reader.read(content.sizeBytes - 512, sector);
    assert.ok(bytesEqual(sector, content.bytes().subarray(-512)));
    await fixture.reader.read(content.sizeBytes, new Uint8Array(0));
  });

  test(`${name}: extents are whole, in order, and zero ones hold zeros`, async () => {
    const content = sparseContent();
    await using fixture = await suite.open(content);
    const extents = await collect(fixture.reader);
    assertWholeExtents(extents, content.sizeBytes);
    for (const extent of extents) {
      if (extent.kind === "data") continue;
      const bytes = new Uint8Array(extent.lengthBytes);
      content.read(extent.offsetBytes, bytes);
      assert.ok(isZero(bytes), `zero extent at ${String(extent.offsetBytes)}`);
    }
    if (!suite.reportsHoles) return;
    const dataBytes = extents.reduce((sum, e) => sum + (e.kind === "data" ? e.lengthBytes : 0), 0);
    assert.ok(dataBytes < content.allocatedBytes + 2 * MIB, `${String(dataBytes)} bytes of data`);
  });

  test(`${name}: extents of a disk that is one hole, and of one that is full`, async () => {
    const prng = createPrng(testSeed());
    for (const fill of [false, true]) {
      const content = new MemoryDisk(2 * MIB);
      if (fill) content.write(0, prng.bytes(content.sizeBytes));
      await using fixture = await suite.open(content);
      const extents = await collect(fixture.reader);
      assertWholeExtents(extents, content.sizeBytes);
      if (fill) assert.ok(extents.every((extent) => extent.kind === "data"));
      else if (suite.reportsHoles) assert.ok(extents.every((extent) => extent.kind === "zero"));
    }
  });

  test(`${name}: an aborted read rejects with the reason and leaves the buffer alone`, async () => {
    const content = sparseContent();
    await using fixture = await suite.open(content);
    const { reader } = fixture;
    await assert.rejects(
      reader.read(0, new Uint8Array(4096), AbortSignal.abort(new Error("enough"))),
      /enough/,
    );
    const controller = new AbortController();
    const targets = Array.from({ length: 32 }, () => new Uint8Array(MIB));
    const reads = targets.map((target) => reader.read(0, target, controller.signal));
    const settled = Promise.allSettled(reads);
    controller.abort(new Error("enough"));
    const outcomes = await settled;
    for (const target of targets) target.fill(GUARD);
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") assert.match(String(outcome.reason), /enough/);
    }
    const whole = new Uint8Array(content.sizeBytes);
    await reader.read(0, whole);
    assert.ok(bytesEqual(whole, content.bytes()), "the reader works after an abort");
    for (const target of targets) assert.ok(target.every((byte) => byte === GUARD));
  });

  test(`${name}: refuses ranges outside the disk, and everything once disposed`, async () => {
    const content = sparseContent();
    await using fixture = await suite.open(content);
    const { reader } = fixture;
    const assertion = { name: "AssertionError" };
    for (const [offsetBytes, lengthBytes] of [
      [-1, 1],
      [0.5, 1],
      [content.sizeBytes, 1],
      [content.sizeBytes - 1, 2],
    ] as const) {
      await assert.rejects(reader.read(offsetBytes, new Uint8Array(lengthBytes)), assertion);
    }
    await reader[Symbol.asyncDispose]();
    await reader[Symbol.asyncDispose]();
    await assert.rejects(reader.read(0, new Uint8Array(1)), assertion);
  });

  test(`${name}: disposing settles reads that are under way`, async () => {
    await using fixture = await suite.open(sparseContent());
    const targets = Array.from({ length: 16 }, () => new Uint8Array(MIB));
    const reads = Promise.allSettled(targets.map((target) => fixture.reader.read(0, target)));
    await fixture.reader[Symbol.asyncDispose]();
    await reads;
  });

  test(`${name}: notices a change behind its back`, async () => {
    await using fixture = await suite.open(sparseContent());
    await fixture.reader.assertUnchanged();
    if (fixture.changeBehind === undefined) return;
    await fixture.changeBehind();
    await assert.rejects(fixture.reader.assertUnchanged(), (error) =>
      isKluisError(error, "ImageChangedDuringRead"),
    );
  });
}

/** All extents of a reader. */
export async function collect(reader: DiskReader): Promise<readonly Extent[]> {
  const extents: Extent[] = [];
  for await (const extent of reader.extents()) extents.push(extent);
  return extents;
}

/** Asserts that extents are not empty, adjacent, and cover the disk. */
export function assertWholeExtents(extents: readonly Extent[], sizeBytes: number): void {
  let endBytes = 0;
  for (const extent of extents) {
    assert.equal(extent.offsetBytes, endBytes);
    assert.ok(extent.lengthBytes > 0);
    endBytes += extent.lengthBytes;
  }
  assert.equal(endBytes, sizeBytes);
}

/** 20 MiB and three sectors: data at both ends, single pages, and holes of several MiB. */
function sparseContent(): MemoryDisk {
  const prng = createPrng(testSeed());
  const content = new MemoryDisk(20 * MIB + 3 * 512);
  content.write(0, prng.bytes(MIB));
  for (let page = 0; page < 10; page++) {
    content.write(8 * MIB + page * 65_536, prng.bytes(4096));
  }
  content.write(content.sizeBytes - 512, prng.bytes(512));
  return content;
}
