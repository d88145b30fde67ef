// Goal: a walk reads each node once, in few calls, never more ahead than it was told, and names
// what is damaged.
// Method: counts on a mapped disk; every node damaged in turn.
import assert from "node:assert/strict";
import { test } from "node:test";

import { AssertionError } from "#base/assert.ts";
import { toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { leafBytes, leafWindows, windowPages } from "#formats/geometry.ts";
import { MemoryNodes } from "#testing/memory-nodes.ts";
import { diffMaps, isSameWindow } from "./diff-maps.ts";
import { createMapBuilder } from "./map-builder.ts";
import type { DiskMap, MapSource } from "./map-source.ts";
import { walkMap, type LeafRange } from "./walk-map.ts";

const leaves = 300;
const sizeBytes = leaves * leafBytes;

/** A disk whose windows are all mapped but those of the leaves 20 to 39. */
async function createDisk(store: MemoryNodes, differentFrom = Infinity): Promise<DiskMap> {
  const { access, emit } = store;
  const builder = createMapBuilder({ sizeBytes, access, emit });
  for (let window = 0; window < leaves * leafWindows; window++) {
    if (window >= 20 * leafWindows && window < 40 * leafWindows) continue;
    const block = new Uint8Array(24).fill(window >= differentFrom ? 2 : 1);
    new DataView(block.buffer).setUint32(0, window);
    const pieces = [{ pages: windowPages, block, offsetPages: 0 }];
    await builder.update(window, { checksum: block.subarray(0, 16), pieces });
  }
  const map = await builder.finish();
  store.resetCounts();
  return map;
}

async function collect(ranges: AsyncIterable<LeafRange>): Promise<LeafRange[]> {
  const list: LeafRange[] = [];
  for await (const range of ranges) list.push(range);
  return list;
}

test("map walk: reads every node once and each level with one call when batches are large", async () => {
  const store = new MemoryNodes();
  const map = await createDisk(store);
  const ranges = await collect(walkMap({ map, access: store.access }));
  assert.equal(ranges.length, leaves - 20 + 1);
  const { firstWindow, windowCount, leaf } = ranges[20] ?? {};
  assert.deepEqual(
    { firstWindow, windowCount, leaf },
    { firstWindow: 160, windowCount: 160, leaf: undefined },
  );
  assert.equal(store.reads, store.nodes.size);
  assert.equal(store.calls, 4);
});

test("map walk: reads only what a range needs", async () => {
  const store = new MemoryNodes();
  const map = await createDisk(store);
  const range = { firstWindow: 1001, windowCount: 2 };
  const [only, ...others] = await collect(walkMap({ map, access: store.access, range }));
  assert.equal(others.length, 0);
  assert.deepEqual({ ...only, leaf: undefined }, { ...range, leaf: undefined });
  assert.equal(store.reads, 4);
  const none = { firstWindow: 2400, windowCount: 0 };
  assert.deepEqual(await collect(walkMap({ map, access: store.access, range: none })), []);
  const outside = { firstWindow: 2400, windowCount: 1 };
  await assert.rejects(
    collect(walkMap({ map, access: store.access, range: outside })),
    AssertionError,
  );
});

test("map walk: stays one batch ahead of its caller", async () => {
  const store = new MemoryNodes();
  const map = await createDisk(store);
  let largest = 0;
  const source: MapSource = (ids, signal) => {
    largest = Math.max(largest, ids.length);
    return store.read(ids, signal);
  };
  let seen = 0;
  const access = { ...store.access, source };
  for await (const range of walkMap({ map, access, prefetch: 7 })) {
    if (range.leaf === undefined) continue;
    seen++;
    const inner = store.nodes.size - (leaves - 20);
    assert.ok(store.reads <= seen + 2 * 7 + inner);
  }
  assert.equal(largest, 7);
  assert.equal(store.reads, store.nodes.size);
});

test("map walk: ends its reads when the caller stops early or aborts", async () => {
  const store = new MemoryNodes();
  const map = await createDisk(store);
  let running = 0;
  const source: MapSource = async (ids, signal) => {
    running++;
    await new Promise((resolve) => setImmediate(resolve));
    running--;
    return await store.read(ids, signal);
  };
  const access = { ...store.access, source };
  for await (const range of walkMap({ map, access, prefetch: 16 })) {
    if (range.firstWindow >= 80) break;
  }
  assert.equal(running, 0, "no read is left behind");
  assert.ok(store.reads < 100);
  const stop = new AbortController();
  const walk = walkMap({ map, access: store.access, prefetch: 16, signal: stop.signal });
  await walk.next();
  stop.abort(new Error("enough"));
  await assert.rejects(collect(walk), /enough/);
});

test("map walk: names the node when any one is damaged", async () => {
  const store = new MemoryNodes();
  const map = await createDisk(store);
  let named = 0;
  for (const [id, bytes] of store.nodes) {
    store.nodes.set(id, bytes.with(bytes.length - 1, (bytes.at(-1) ?? 0) ^ 128));
    await assert.rejects(
      collect(walkMap({ map, access: store.access })),
      (error) => isKluisError(error, "ObjectCorrupt") && error.details["node"] === id,
    );
    store.nodes.set(id, bytes);
    named++;
  }
  assert.equal(named, store.nodes.size);
});

test("map difference: reads only the paths that differ", async () => {
  const store = new MemoryNodes();
  const a = await createDisk(store);
  const b = await createDisk(store, 2399);
  const windows: number[] = [];
  for await (const { windowIndex } of diffMaps({ a, b, access: store.access })) {
    windows.push(windowIndex);
  }
  assert.deepEqual(windows, [2399]);
  assert.equal(store.reads, 8);
  assert.ok(a.root && b.root && toHex(a.root) !== toHex(b.root));
});

test("map difference: tells windows apart by checksum, block, offset and length of their pieces", () => {
  const checksum = new Uint8Array(16);
  const block = new Uint8Array(24);
  const piece = { pages: 32, block, offsetPages: 1 };
  const window = { checksum, pieces: [piece, { ...piece, block: undefined, offsetPages: 0 }] };
  const withFirst = (first: Partial<typeof piece>): typeof window => ({
    checksum,
    pieces: [{ ...piece, ...first }, ...window.pieces.slice(1)],
  });
  assert.ok(isSameWindow(undefined, undefined));
  assert.ok(isSameWindow(window, withFirst({ block: new Uint8Array(24) })));
  assert.ok(!isSameWindow(window, undefined));
  assert.ok(!isSameWindow(window, { ...window, checksum: checksum.with(3, 1) }));
  assert.ok(!isSameWindow(window, { ...window, pieces: [piece] }));
  assert.ok(!isSameWindow(window, withFirst({ offsetPages: 2 })));
  assert.ok(!isSameWindow(window, withFirst({ pages: 31 })));
  assert.ok(!isSameWindow(window, withFirst({ block: block.with(5, 1) })));
});
