// Goal: a map costs what changed, whatever the size of the disk; resizes keep exactly what remains.
// Method: counts of nodes read and stored on large synthetic disks, and resizes by example. The
// content of random maps is the matter of map-model.test.ts.
import assert from "node:assert/strict";
import { test } from "node:test";

import { AssertionError } from "#base/assert.ts";
import { toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { leafBytes, leafWindows, windowBytes, windowPages } from "#formats/geometry.ts";
import { encodeInner, mapLevelOf, type WindowMap } from "#formats/map-node.ts";
import { MemoryNodes } from "#testing/memory-nodes.ts";
import { computeId } from "#vault/hashing.ts";
import { createMapBuilder, type BuiltMap } from "./map-builder.ts";
import type { DiskMap } from "./map-source.ts";
import { walkMap } from "./walk-map.ts";

const tebibyte = 2 ** 40;

function wholeWindow(number: number): WindowMap {
  const block = new Uint8Array(24);
  new DataView(block.buffer).setUint32(0, number + 1);
  const pieces = [{ pages: windowPages, block, offsetPages: 0 }];
  return { checksum: block.subarray(0, 16), pieces };
}

async function build(
  store: MemoryNodes,
  disk: { sizeBytes: number; base?: DiskMap },
  windows: readonly (readonly [number, WindowMap | undefined])[] = [],
): Promise<BuiltMap> {
  const { access, emit } = store;
  const builder = createMapBuilder({ ...disk, access, emit });
  for (const [index, window] of windows) await builder.update(index, window);
  return await builder.finish();
}

async function mappedWindows(store: MemoryNodes, map: DiskMap): Promise<number[]> {
  const mapped: number[] = [];
  for await (const part of walkMap({ map, access: store.access })) {
    for (let at = 0; at < part.windowCount; at++) {
      const window = part.firstWindow + at;
      if (part.leaf?.windows[window % leafWindows] !== undefined) mapped.push(window);
    }
  }
  return mapped;
}

function fill(from: number, to: number): (readonly [number, WindowMap])[] {
  return Array.from({ length: to - from }, (_, at) => [from + at, wholeWindow(from + at)] as const);
}

test("map builder: reads and stores one path for each change when the disk is 4 TiB and sparse", async () => {
  const store = new MemoryNodes();
  const sizeBytes = 4 * tebibyte;
  const windows = [3, 5, 7_000_000, 16_777_215];
  const base = await build(
    store,
    { sizeBytes },
    windows.map((at) => [at, wholeWindow(at)] as const),
  );
  const depth = mapLevelOf(sizeBytes) + 1;
  assert.equal(depth, 7);
  assert.equal(store.reads, 0);
  assert.ok(store.emitted <= 3 * depth);
  assert.deepEqual(await mappedWindows(store, base), windows);

  store.resetCounts();
  await build(store, { sizeBytes, base }, [[7_000_000, wholeWindow(1)]]);
  assert.equal(store.reads, depth);
  assert.equal(store.emitted, depth);

  store.resetCounts();
  await build(store, { sizeBytes, base }, [[9_000_000, wholeWindow(1)]]);
  assert.ok(store.reads < depth, "absent subtrees are not read");
  assert.equal(store.emitted, depth);
});

test("map builder: stores nothing when every update says what the base says", async () => {
  const store = new MemoryNodes();
  const sizeBytes = 100 * leafBytes;
  const base = await build(store, { sizeBytes }, fill(0, 800));
  store.resetCounts();
  const again = await build(store, { sizeBytes, base }, fill(100, 300));
  assert.deepEqual(again.root, base.root);
  assert.equal(store.emitted, 0);
  const untouched = await build(store, { sizeBytes, base });
  assert.deepEqual(untouched.root, base.root);
});

test("map builder: does not read a leaf when all of its windows are updated", async () => {
  const store = new MemoryNodes();
  const sizeBytes = 16 * leafBytes;
  const base = await build(store, { sizeBytes }, fill(0, 128));
  store.resetCounts();
  await build(
    store,
    { sizeBytes, base },
    fill(8, 24).map(([at]) => [at, wholeWindow(at + 1)] as const),
  );
  assert.equal(store.reads, 1, "the root alone");
  assert.equal(store.emitted, 3);
});

test("map builder: shares the old tree when the disk grew by levels", async () => {
  const store = new MemoryNodes();
  const sizeBytes = 10 * leafBytes + 512;
  const base = await build(store, { sizeBytes }, fill(70, 81));
  store.resetCounts();
  const grown = await build(store, { sizeBytes: tebibyte, base });
  assert.equal(store.reads, 0);
  assert.equal(store.emitted, mapLevelOf(tebibyte) - mapLevelOf(sizeBytes));
  assert.deepEqual(
    await mappedWindows(store, grown),
    fill(70, 81).map(([at]) => at),
  );

  const far = await build(store, { sizeBytes: tebibyte, base }, [[4_000_000, wholeWindow(1)]]);
  assert.deepEqual(await mappedWindows(store, far), [...fill(70, 81).map(([at]) => at), 4_000_000]);
});

test("map builder: drops what lies past the end when the disk shrank", async () => {
  const store = new MemoryNodes();
  const sizeBytes = 300 * leafBytes;
  const base = await build(store, { sizeBytes }, fill(0, 2400));
  for (const windows of [2399, 2390, 2000, 260, 136, 130, 128, 12, 8, 1]) {
    store.resetCounts();
    const shrunk = await build(store, { sizeBytes: windows * windowBytes, base });
    assert.ok(store.reads <= 2 * (base.level + 1));
    assert.deepEqual(
      await mappedWindows(store, shrunk),
      fill(0, windows).map(([at]) => at),
    );
    const fresh = await build(
      new MemoryNodes(),
      { sizeBytes: windows * windowBytes },
      fill(0, windows),
    );
    assert.deepEqual(shrunk, fresh);
  }
  assert.equal((await build(store, { sizeBytes: 0, base })).root, undefined);
});

test("map builder: insists on the partial last window when the disk shrank", async () => {
  const store = new MemoryNodes();
  const base = await build(store, { sizeBytes: 20 * windowBytes }, fill(0, 12));
  const sizeBytes = 12 * windowBytes - 512;
  await assert.rejects(build(store, { sizeBytes, base }), AssertionError);
  const updated = await build(store, { sizeBytes, base }, [[11, wholeWindow(99)]]);
  assert.deepEqual(
    await mappedWindows(store, updated),
    fill(0, 12).map(([at]) => at),
  );
  const onZeros = await build(store, { sizeBytes: 15 * windowBytes - 512, base });
  assert.deepEqual(
    await mappedWindows(store, onZeros),
    fill(0, 12).map(([at]) => at),
  );
});

test("map builder: gives no root when the last window becomes zeros", async () => {
  const store = new MemoryNodes();
  const base = await build(store, { sizeBytes: tebibyte }, [[1_000_000, wholeWindow(1)]]);
  const empty = await build(store, { sizeBytes: tebibyte, base }, [[1_000_000, undefined]]);
  assert.equal(empty.root, undefined);
  assert.equal(empty.level, mapLevelOf(tebibyte));
});

test("map builder: reads each level with one call when the windows are prepared", async () => {
  const store = new MemoryNodes();
  const sizeBytes = 256 * leafBytes;
  const base = await build(store, { sizeBytes }, fill(0, 2048));
  const touched = Array.from({ length: 50 }, (_, at) => at * 40 + 1);
  store.resetCounts();
  const { access, emit } = store;
  const builder = createMapBuilder({ sizeBytes, base, access, emit });
  await builder.prepare(touched);
  assert.equal(store.calls, 3);
  const reads = store.reads;
  for (const window of touched) {
    const leaf = await builder.readLeaf(Math.floor(window / leafWindows));
    assert.deepEqual(leaf?.windows[window % leafWindows], wholeWindow(window));
    assert.deepEqual(await builder.read(window), wholeWindow(window));
    await builder.update(window, wholeWindow(window + 5));
  }
  await builder.prepare([touched.length * 40 + 1]);
  assert.equal(store.calls, 4, "the way there is open but for the leaf");
  await builder.finish();
  assert.equal(store.calls, 4);
  assert.equal(store.reads, reads + 1);
});

test("map builder: fails an assertion when windows go back, calls overlap or one failed", async () => {
  const store = new MemoryNodes();
  const { access } = store;
  const start = (emit = store.emit) =>
    createMapBuilder({ sizeBytes: 99 * leafBytes, access, emit });
  const backwards = start();
  await backwards.update(9, wholeWindow(9));
  await assert.rejects(backwards.update(9, undefined), AssertionError);
  await assert.rejects(start().update(99 * leafWindows, undefined), AssertionError);

  const overlapping = start();
  const first = overlapping.update(1, wholeWindow(1));
  await assert.rejects(overlapping.update(2, wholeWindow(2)), AssertionError);
  await first;

  const failing = start(() => Promise.reject(new Error("no space")));
  await failing.update(1, wholeWindow(1));
  await assert.rejects(failing.update(800 - 20, wholeWindow(1)), /no space/);
  await assert.rejects(failing.finish(), AssertionError);

  const finished = start();
  await finished.finish();
  await assert.rejects(finished.finish(), AssertionError);
});

test("map builder: names the node when the base is damaged or of another disk", async () => {
  const store = new MemoryNodes();
  const sizeBytes = 40 * leafBytes;
  const base = await build(store, { sizeBytes }, fill(0, 320));
  const root = toHex(base.root ?? new Uint8Array(0));
  const isNamed = (error: unknown): boolean =>
    isKluisError(error, "ObjectCorrupt") &&
    error.details["node"] === root &&
    error.message.includes(root);
  const change = [[5, wholeWindow(6)]] as const;
  await assert.rejects(
    build(store, { sizeBytes, base: { ...base, sizeBytes: leafBytes * 2 } }, change),
    isNamed,
  );
  await assert.rejects(
    build(store, { sizeBytes, base: { ...base, sizeBytes: leafBytes * 30 } }, change),
    isNamed,
  );
  await assert.rejects(
    build(store, { sizeBytes, base: { ...base, sizeBytes: tebibyte } }, change),
    isNamed,
  );

  const windowShort = { ...base, sizeBytes: sizeBytes - windowBytes };
  const last = [[318, wholeWindow(6)]] as const;
  const cutOff = build(store, { sizeBytes: sizeBytes - windowBytes, base: windowShort }, last);
  await assert.rejects(cutOff, /past the end of the disk/);

  const bytes = encodeInner({ level: 2, children: [base.root, ...Array<undefined>(15)] });
  const id = computeId(store.access.nodeIdKey, bytes);
  store.nodes.set(toHex(id), bytes);
  const looped = build(store, { sizeBytes, base: { root: id, sizeBytes } }, change);
  await assert.rejects(looped, isNamed);

  const stored = store.nodes.get(root);
  assert.ok(stored);
  store.nodes.set(root, stored.with(9, (stored[9] ?? 0) ^ 1));
  await assert.rejects(build(store, { sizeBytes, base }, change), isNamed);
});
