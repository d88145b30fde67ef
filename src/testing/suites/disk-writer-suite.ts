/** What every DiskWriter must do; each driver runs this suite on the targets it makes. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { allocateAligned } from "#base/aligned-memory.ts";
import { bytesEqual } from "#base/bytes.ts";
import type { DiskWriter } from "#ports/disk.ts";
import { MemoryDisk } from "../memory-disk.ts";
import { createPrng, testSeed } from "../seed.ts";

/** One fresh target. */
export interface DiskWriterFixture extends AsyncDisposable {
  readonly writer: DiskWriter;
  /** The content under the final name; `undefined` where nothing has that name. */
  readBack(): Promise<Uint8Array | undefined>;
  /** Names of anything temporary that is still there. */
  leftovers(): Promise<readonly string[]>;
}

/** How the suite is run on one driver. */
export interface DiskWriterSuite {
  /** Makes a fresh target of that size. */
  readonly open: (sizeBytes: number) => Promise<DiskWriterFixture>;
  /** The target is there before and written in place, as a device is. */
  readonly inPlace?: boolean;
}

const MIB = 1024 * 1024;
const SIZE_BYTES = 8 * MIB + 512;

/** Declares the tests of the suite for the driver called `name`. */
export function testDiskWriter(name: string, suite: DiskWriterSuite): void {
  test(`${name}: an untouched target is all zeros after commit`, async () => {
    await using fixture = await suite.open(SIZE_BYTES);
    assert.equal(fixture.writer.sizeBytes, SIZE_BYTES);
    await fixture.writer.commit();
    await fixture.writer[Symbol.asyncDispose]();
    await assertContent(fixture, new MemoryDisk(SIZE_BYTES));
  });

  test(`${name}: holds what was written and zeroed, in any order`, async () => {
    const prng = createPrng(testSeed());
    const model = new MemoryDisk(SIZE_BYTES);
    await using fixture = await suite.open(SIZE_BYTES);
    for (let step = 0; step < 60; step++) {
      const sectors = 1 + prng.below(step % 10 === 0 ? 4096 : 64);
      const offsetBytes = 512 * prng.below(SIZE_BYTES / 512 - sectors + 1);
      if (prng.below(3) === 0) {
        await fixture.writer.zero(offsetBytes, sectors * 512);
        model.zero(offsetBytes, sectors * 512);
      } else {
        const bytes = prng.bytes(sectors * 512);
        await fixture.writer.write(offsetBytes, bytes);
        model.write(offsetBytes, bytes);
        bytes.fill(0);
      }
    }
    await fixture.writer.commit();
    await fixture.writer[Symbol.asyncDispose]();
    await assertContent(fixture, model);
  });

  test(`${name}: takes writes that overlap in time`, async () => {
    const prng = createPrng(testSeed());
    const model = new MemoryDisk(SIZE_BYTES);
    await using fixture = await suite.open(SIZE_BYTES);
    const pieces = Array.from({ length: 64 }, (_, index) => ({
      offsetBytes: index * 128 * 1024,
      bytes: prng.bytes(128 * 1024 - 512),
    }));
    for (const { offsetBytes, bytes } of pieces) model.write(offsetBytes, bytes);
    await Promise.all(
      pieces.flatMap(({ offsetBytes, bytes }) => [
        fixture.writer.write(offsetBytes, bytes),
        fixture.writer.zero(offsetBytes + bytes.byteLength, 512),
      ]),
    );
    await fixture.writer.commit();
    await fixture.writer[Symbol.asyncDispose]();
    await assertContent(fixture, model);
  });

  test(`${name}: takes page-aligned memory and other memory in turns`, async () => {
    const prng = createPrng(testSeed());
    const model = new MemoryDisk(SIZE_BYTES);
    await using fixture = await suite.open(SIZE_BYTES);
    const memory = allocateAligned(256 * 1024, "private");
    memory.set(prng.bytes(memory.byteLength));
    for (let at = 0; at < 24; at++) {
      // A part of what was written before is written again, the other way.
      const offsetBytes = at * 96 * 1024 + (at % 3) * 512;
      const aligned = memory.subarray((at % 5) * 4096, 128 * 1024 + (at % 2) * 512);
      const bytes = at % 4 === 3 ? aligned.slice() : aligned;
      model.write(offsetBytes, bytes);
      await fixture.writer.write(offsetBytes, bytes);
    }
    await fixture.writer.commit();
    await fixture.writer[Symbol.asyncDispose]();
    await assertContent(fixture, model);
  });

  test(`${name}: has no name before commit and leaves nothing when disposed`, async () => {
    await using fixture = await suite.open(SIZE_BYTES);
    await fixture.writer.write(0, new Uint8Array(4096).fill(1));
    if (suite.inPlace !== true) assert.equal(await fixture.readBack(), undefined);
    await fixture.writer[Symbol.asyncDispose]();
    await fixture.writer[Symbol.asyncDispose]();
    if (suite.inPlace !== true) assert.equal(await fixture.readBack(), undefined);
    assert.deepEqual(await fixture.leftovers(), []);
  });

  test(`${name}: an aborted call rejects with the reason, and the target can be dropped`, async () => {
    await using fixture = await suite.open(SIZE_BYTES);
    const aborted = AbortSignal.abort(new Error("enough"));
    const { writer } = fixture;
    await assert.rejects(writer.write(0, new Uint8Array(512), aborted), /enough/);
    await assert.rejects(writer.zero(0, 512, aborted), /enough/);
    await assert.rejects(writer.commit(aborted), /enough/);
    await writer[Symbol.asyncDispose]();
    if (suite.inPlace !== true) assert.equal(await fixture.readBack(), undefined);
    assert.deepEqual(await fixture.leftovers(), []);
  });

  test(`${name}: refuses ranges outside the disk, and everything after commit`, async () => {
    await using fixture = await suite.open(SIZE_BYTES);
    const { writer } = fixture;
    const assertion = { name: "AssertionError" };
    await assert.rejects(writer.write(SIZE_BYTES, new Uint8Array(512)), assertion);
    await assert.rejects(writer.zero(-512, 512), assertion);
    await writer.write(SIZE_BYTES, new Uint8Array(0));
    await writer.zero(SIZE_BYTES, 0);
    await writer.commit();
    await assert.rejects(writer.write(0, new Uint8Array(512)), assertion);
    await assert.rejects(writer.zero(0, 512), assertion);
    await assert.rejects(writer.commit(), assertion);
  });
}

async function assertContent(fixture: DiskWriterFixture, model: MemoryDisk): Promise<void> {
  const content = await fixture.readBack();
  assert.ok(content !== undefined, "the target has its name");
  assert.ok(bytesEqual(content, model.bytes()), "the target holds what was written");
  assert.deepEqual(await fixture.leftovers(), []);
}
