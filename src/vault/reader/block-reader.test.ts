// Goal: pieces come from few large fetches, through a bounded cache, checked by their ids.
// Method: a vault in memory whose store counts; a reader with a small cache of its own.
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesEqual } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { frameBytesMax, windowBytes } from "#formats/geometry.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { packPrefix } from "#formats/store-names.ts";
import type { ByteRange } from "#ports/object-store.ts";
import { replaceObject } from "#testing/damage.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { listAll } from "#testing/suites/object-store-suite.ts";
import { backUp } from "#testing/vault-points.ts";
import { computeId } from "#vault/hashing.ts";
import { fetchBytesMax } from "#vault/limits.ts";
import type { Vault } from "#vault/vault.ts";
import { WorkerPool } from "#vault/workers/worker-pool.ts";
import { type BlockPiece, BlockReader } from "./block-reader.ts";

const mib = 1024 * 1024;
const random = createSeededRandom("block reader");

/** Notes the ranges that are fetched. */
class NotingStore extends FaultyStore {
  readonly ranges: ByteRange[] = [];
  /** Runs before each get. */
  onGet: () => Promise<void> = async () => {};
  mostBytes = 0;
  #bytes = 0;

  override async get(...args: Parameters<FaultyStore["get"]>): Promise<Uint8Array> {
    const [, range] = args;
    if (range !== undefined) this.ranges.push(range);
    this.#bytes += range?.lengthBytes ?? 0;
    this.mostBytes = Math.max(this.mostBytes, this.#bytes);
    try {
      await this.onGet();
      return await super.get(...args);
    } finally {
      this.#bytes -= range?.lengthBytes ?? 0;
    }
  }
}

interface Fixture extends AsyncDisposable {
  readonly store: NotingStore;
  readonly vault: Vault;
  readonly content: MemoryDisk;
  /** The piece of a window of the disk. */
  piece(window: number, targetOffset: number): BlockPiece;
  open(cacheBytes: number, pool?: WorkerPool): BlockReader;
}

const start = { keys: testKeys, verify: false };

/** Opens nothing before it is told to. */
class HeldPool extends WorkerPool {
  readonly asked = Promise.withResolvers<void>();
  readonly released = Promise.withResolvers<void>();

  override async openFrames(
    ...args: Parameters<WorkerPool["openFrames"]>
  ): ReturnType<WorkerPool["openFrames"]> {
    this.asked.resolve();
    await this.released.promise;
    return await super.openFrames(...args);
  }
}

/** A disk of random windows, stored in disk order in frames of four. */
async function createFixture(sizeBytes: number): Promise<Fixture> {
  const content = new MemoryDisk(sizeBytes);
  content.write(0, random.bytes(sizeBytes));
  const store = new NotingStore(createMemoryStore());
  const vault = await openTestVault({ store });
  await backUp(vault, { itemId: "blocks", number: 1, disks: [content] });
  const pool = new WorkerPool({ start, size: 1 });
  const ids: Uint8Array[] = [];
  for (let at = 0; at < sizeBytes; at += windowBytes) {
    const window = new Uint8Array(windowBytes);
    content.read(at, window);
    ids.push(computeId(testKeys.blockIdKey, window));
  }
  return {
    store,
    vault,
    content,
    piece: (window, targetOffset) => ({
      block: ids[window] as Uint8Array,
      offsetBytes: 0,
      lengthBytes: windowBytes,
      targetOffset,
    }),
    open(cacheBytes, other = pool) {
      const deps = { store, keys: testKeys, locator: vault.locator, pool: other };
      return new BlockReader({ ...deps, workers: 1, cacheBytes });
    },
    async [Symbol.asyncDispose]() {
      await pool[Symbol.asyncDispose]();
      await vault[Symbol.asyncDispose]();
    },
  };
}

/** Reads windows one after the other into one buffer and compares them. */
async function assertReads(
  fixture: Fixture,
  reader: BlockReader,
  windows: readonly number[],
): Promise<void> {
  const target = new Uint8Array(windows.length * windowBytes);
  const pieces = windows.map((window, at) => fixture.piece(window, at * windowBytes));
  await reader.read(pieces, target);
  for (const [at, window] of windows.entries()) {
    const expected = new Uint8Array(windowBytes);
    fixture.content.read(window * windowBytes, expected);
    const actual = target.subarray(at * windowBytes, (at + 1) * windowBytes);
    assert.ok(bytesEqual(actual, expected), `window ${window}`);
  }
}

/** Flips a bit in frame 1 of each pack. */
async function damageSecondFrame(store: NotingStore): Promise<void> {
  for (const name of (await listAll(store)).keys()) {
    if (!name.startsWith(packPrefix)) continue;
    const bytes = await store.get(name);
    const at = 64 + (frameBytesMax + 32) + 5000;
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    await replaceObject(store, name, bytes);
  }
}

test("block reader: fetches neighbouring frames as one, up to its bound, and each once", async () => {
  await using fixture = await createFixture(12 * mib);
  const { store } = fixture;
  const reader = fixture.open(32 * mib);
  store.ranges.length = 0;
  await assertReads(
    fixture,
    reader,
    Array.from({ length: 48 }, (_, at) => at),
  );
  assert.equal(store.ranges.length, 4);
  const sorted = store.ranges.toSorted((a, b) => a.offsetBytes - b.offsetBytes);
  for (const [at, { offsetBytes, lengthBytes }] of sorted.entries()) {
    assert.ok(lengthBytes <= fetchBytesMax);
    const last = sorted[at - 1];
    if (last !== undefined) assert.equal(offsetBytes, last.offsetBytes + last.lengthBytes);
  }
  await assertReads(fixture, reader, [0, 47, 5]);
  assert.equal(store.ranges.length, 4, "what was opened is kept");
});

test("block reader: frames that do not touch come one by one, in the order of the pack", async () => {
  await using fixture = await createFixture(8 * mib);
  const { store } = fixture;
  const reader = fixture.open(32 * mib);
  store.ranges.length = 0;
  await assertReads(fixture, reader, [28, 1, 12, 2]);
  const offsets = store.ranges.map(({ offsetBytes }) => offsetBytes);
  assert.deepEqual(
    offsets,
    offsets.toSorted((a, b) => a - b),
  );
  assert.equal(offsets.length, 3, "windows 1 and 2 lie in one frame");
});

test("block reader: readers at the same time share each fetch", async () => {
  await using fixture = await createFixture(4 * mib);
  const { store } = fixture;
  const reader = fixture.open(32 * mib);
  store.ranges.length = 0;
  await Promise.all([0, 1, 2, 3].map((window) => assertReads(fixture, reader, [window])));
  assert.equal(store.ranges.length, 1);
});

test("block reader: a frame that is there stays while room is made for the others of a read", async () => {
  await using fixture = await createFixture(4 * mib);
  const reader = fixture.open(2 * mib);
  await assertReads(fixture, reader, [4]);
  await assertReads(fixture, reader, [8]);
  // The frame of window 4 is the one used longest ago, and that of window 0 needs its room.
  await assertReads(fixture, reader, [0, 4]);
});

test("block reader: reads far more frames than it may keep, many reads at once", async () => {
  await using fixture = await createFixture(24 * mib);
  const { store } = fixture;
  const reader = fixture.open(3 * mib);
  const order = random.shuffle(Array.from({ length: 96 }, (_, at) => at));
  store.mostBytes = 0;
  await Promise.all([
    assertReads(fixture, reader, order),
    assertReads(fixture, reader, order.toReversed()),
    ...order.map((window) => assertReads(fixture, reader, [window, (window * 7) % 96])),
  ]);
  assert.ok(store.mostBytes <= 6 * fetchBytesMax, `${store.mostBytes} bytes under way`);
});

test("block reader: is closed when the fetch has ended that an abort left behind", async () => {
  await using fixture = await createFixture(2 * mib);
  const { store } = fixture;
  const reader = fixture.open(16 * mib);
  const controller = new AbortController();
  const asked = Promise.withResolvers<void>();
  const answered = Promise.withResolvers<void>();
  store.onGet = async () => {
    asked.resolve();
    await answered.promise;
  };
  const target = new Uint8Array(windowBytes);
  const reading = reader.read([fixture.piece(0, 0)], target, controller.signal);
  await asked.promise;
  controller.abort(new Error("enough"));
  await assert.rejects(reading, /enough/);
  let isClosed = false;
  const closing = reader.close().then(() => (isClosed = true));
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  assert.equal(isClosed, false, "a get is under way");
  answered.resolve();
  await closing;
});

test("block reader: nothing is written into the target after an abort, though the frame still comes", async () => {
  await using fixture = await createFixture(2 * mib);
  const { store } = fixture;
  const reader = fixture.open(16 * mib);
  const controller = new AbortController();
  const asked = Promise.withResolvers<void>();
  const answered = Promise.withResolvers<void>();
  store.onGet = async () => {
    asked.resolve();
    await answered.promise;
  };
  const target = new Uint8Array(windowBytes);
  const reading = reader.read([fixture.piece(0, 0)], target, controller.signal);
  await asked.promise;
  controller.abort(new Error("enough"));
  await assert.rejects(reading, /enough/);
  answered.resolve();
  // Another read of the frame: when it has its bytes, the first would have had its.
  await assertReads(fixture, reader, [0]);
  assert.ok(target.every((byte) => byte === 0));
});

test("block reader: a damaged frame costs those that came along with it nothing", async () => {
  await using fixture = await createFixture(3 * mib);
  const { store } = fixture;
  await damageSecondFrame(store);
  const reader = fixture.open(16 * mib);
  store.ranges.length = 0;
  const target = new Uint8Array(3 * windowBytes);
  const pieces = [0, 5, 9].map((window, at) => fixture.piece(window, at * windowBytes));
  await assert.rejects(
    reader.read(pieces, target),
    (error) => isKluisError(error, "ObjectCorrupt") && error.message.includes("frame 1"),
  );
  assert.ok(target.subarray(windowBytes, 2 * windowBytes).every((byte) => byte === 0));
  assert.equal(store.ranges[0]?.lengthBytes, 3 * (frameBytesMax + 32), "three frames in one get");
  const gets = store.ranges.length;
  await assertReads(fixture, reader, [0, 1, 9]);
  assert.equal(store.ranges.length, gets, "the others are kept");
});

test("block reader: parts of blocks, in any place of the target", async () => {
  await using fixture = await createFixture(2 * mib);
  const reader = fixture.open(8 * mib);
  const whole = fixture.content.bytes();
  const target = new Uint8Array(mib);
  const expected = new Uint8Array(mib);
  const pieces: BlockPiece[] = [];
  for (let at = 0; at < mib; at += 8192) {
    const window = random.integer(0, 7);
    const offsetBytes = random.integer(0, 60) * 4096;
    pieces.push({ ...fixture.piece(window, at), offsetBytes, lengthBytes: 8192 });
    const start = window * windowBytes + offsetBytes;
    expected.set(whole.subarray(start, start + 8192), at);
  }
  await reader.read(random.shuffle(pieces), target);
  assert.ok(bytesEqual(target, expected));
});

test("block reader: a piece past the end of its block, and a block that nobody has, are refused", async () => {
  await using fixture = await createFixture(mib);
  const reader = fixture.open(4 * mib);
  const target = new Uint8Array(2 * windowBytes);
  const piece = fixture.piece(1, 0);
  await assert.rejects(
    reader.read([{ ...piece, offsetBytes: 4096 }], target),
    (error) => isKluisError(error, "ObjectCorrupt") && error.message.includes("shorter"),
  );
  const stranger = random.bytes(24);
  await assert.rejects(
    reader.read([piece, { ...piece, block: stranger }], target),
    (error) =>
      isKluisError(error, "BlockMissing") &&
      error.details["block"] === Buffer.from(stranger).toString("hex"),
  );
  assert.ok(frameBytesMax >= 4 * windowBytes, "a frame holds four windows");
});

test("block reader: whole frames that changed places give no wrong data, but an error that names the block", async () => {
  await using fixture = await createFixture(2 * mib);
  const { store } = fixture;
  for (const name of (await listAll(store)).keys()) {
    if (!name.startsWith(packPrefix)) continue;
    const bytes = await store.get(name);
    const frameBytes = frameBytesMax + 32;
    const [a, b] = [
      bytes.slice(64, 64 + frameBytes),
      bytes.slice(64 + frameBytes, 64 + 2 * frameBytes),
    ];
    bytes.set(b, 64);
    bytes.set(a, 64 + frameBytes);
    await replaceObject(store, name, bytes);
  }
  // Both frames open, each under its own number: only the ids tell.
  for (const reader of [fixture.open(4 * mib), fixture.open(4 * mib)]) {
    const target = new Uint8Array(windowBytes);
    const piece = fixture.piece(5, 0);
    await assert.rejects(
      reader.read([piece], target),
      (error) =>
        isKluisError(error, "ObjectCorrupt") &&
        error.details["block"] === Buffer.from(piece.block).toString("hex"),
    );
    assert.ok(target.every((byte) => byte === 0));
  }
});

test("block reader: a block of a kept frame that nobody asked for before is checked too", async () => {
  await using fixture = await createFixture(mib);
  const { store } = fixture;
  const reader = fixture.open(4 * mib);
  await assertReads(fixture, reader, [0]);
  store.ranges.length = 0;
  await assertReads(fixture, reader, [1, 2, 3]);
  assert.equal(store.ranges.length, 0);
});

/** Pieces of windows one after the other, and shared memory for them between bytes that stay. */
function toShared(
  fixture: Fixture,
  windows: readonly number[],
): { readonly pieces: BlockPiece[]; readonly target: Uint8Array; readonly whole: Uint8Array } {
  const lengthBytes = windows.length * windowBytes;
  const whole = new Uint8Array(new SharedArrayBuffer(lengthBytes + 2 * 4096)).fill(0xee);
  const target = whole.subarray(4096, 4096 + lengthBytes);
  return {
    pieces: windows.map((window, at) => fixture.piece(window, at * windowBytes)),
    target,
    whole,
  };
}

test("block reader: whole frames are opened in a shared target, the others copied there", async () => {
  await using fixture = await createFixture(6 * mib);
  const { store } = fixture;
  const reader = fixture.open(8 * mib);
  // Half of frame 0, frames 1 to 3 whole, the first two windows of frame 4 twice, frame 5 in reverse.
  const windows = [2, 3, ...Array.from({ length: 12 }, (_, at) => 4 + at), 16, 17, 16, 17];
  windows.push(23, 22, 21, 20);
  const { pieces, target, whole } = toShared(fixture, windows);
  store.ranges.length = 0;
  await reader.read(random.shuffle(pieces), target);
  for (const [at, window] of windows.entries()) {
    const expected = new Uint8Array(windowBytes);
    fixture.content.read(window * windowBytes, expected);
    const actual = target.subarray(at * windowBytes, (at + 1) * windowBytes);
    assert.ok(bytesEqual(actual, expected), `window ${window}`);
  }
  for (const edge of [whole.subarray(0, 4096), whole.subarray(-4096)]) {
    assert.ok(edge.every((byte) => byte === 0xee));
  }
  const gets = store.ranges.length;
  assert.ok(gets <= 3, `${gets} gets`);
  await assertReads(fixture, reader, [18]);
  assert.equal(store.ranges.length, gets, "a frame that may go on behind the target is kept");
  await assertReads(fixture, reader, [0, 20]);
  assert.equal(store.ranges.length, gets + 2, "those whose end was wanted are not");
});

test("block reader: frames that come after an abort are not opened in a shared target", async () => {
  await using fixture = await createFixture(4 * mib);
  const { store } = fixture;
  const reader = fixture.open(8 * mib);
  const { pieces, target } = toShared(fixture, [0, 1, 2, 3]);
  const controller = new AbortController();
  const asked = Promise.withResolvers<void>();
  const answered = Promise.withResolvers<void>();
  store.onGet = async () => {
    asked.resolve();
    await answered.promise;
  };
  const reading = reader.read(pieces, target, controller.signal);
  await asked.promise;
  controller.abort(new Error("enough"));
  await assert.rejects(reading, /enough/);
  answered.resolve();
  await reader.close();
  store.onGet = async () => {};
  // Behind all that its one thread was still to do.
  await assertReads(fixture, fixture.open(8 * mib), [0]);
  assert.ok(target.every((byte) => byte === 0xee));
});

test("block reader: an abort waits for what is being opened in a shared target", async () => {
  await using fixture = await createFixture(mib);
  await using pool = new HeldPool({ start, size: 1 });
  const reader = fixture.open(8 * mib, pool);
  const { pieces, target } = toShared(fixture, [0, 1, 2, 3]);
  const controller = new AbortController();
  let isOver = false;
  const reading = reader.read(pieces, target, controller.signal);
  const watched = reading.catch(() => (isOver = true));
  await pool.asked.promise;
  controller.abort(new Error("enough"));
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  assert.equal(isOver, false, "a thread still writes to the target");
  pool.released.resolve();
  await assert.rejects(reading, /enough/);
  await watched;
  assert.ok(bytesEqual(target, fixture.content.bytes()), "it was done when the read ended");
});

test("block reader: a damaged frame fails the read that would open it in a shared target", async () => {
  await using fixture = await createFixture(3 * mib);
  const { store } = fixture;
  await damageSecondFrame(store);
  const reader = fixture.open(8 * mib);
  const { pieces, target } = toShared(
    fixture,
    Array.from({ length: 12 }, (_, at) => at),
  );
  await assert.rejects(
    reader.read(pieces, target),
    (error) => isKluisError(error, "ObjectCorrupt") && error.message.includes("frame 1"),
  );
});
