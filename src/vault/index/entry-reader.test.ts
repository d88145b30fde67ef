// Goal: whatever a segment may hold is read back from its pages as it was, to the last bit of every
// bound, and no damaged page is ever used.
// Method: packs at and between the bounds of the format, read from memory; every byte of every page
// changed in turn.
import assert from "node:assert/strict";
import { test } from "node:test";

import { present } from "#base/assert.ts";
import { blockBytesMax, frameBytesMax, idBytes } from "#formats/geometry.ts";
import { fromIndexColumns, type IndexPack, toIndexColumns } from "#formats/index-segment.ts";
import { createSeededRandom, type SeededRandom } from "#testing/seeded-random.ts";
import { cachePageBytes } from "#vault/cache/cache-page.ts";
import { PageCache } from "#vault/cache/page-cache.ts";
import { CacheUnreadable, MemoryPages } from "#vault/cache/page-source.ts";
import { buildSegmentPages, parseHead } from "#vault/cache/segment-layout.ts";
import { EntryReader } from "./entry-reader.ts";

const sealedBytesMax = frameBytesMax + 64 * 1024 + 32;

/** A pack whose frames are full, empty but for a byte, or something between. */
function createPack(random: SeededRandom): IndexPack {
  const type = random.pick(["pack", "mapPack"] as const);
  const frames: IndexPack["frames"][number][] = [];
  const entries: IndexPack["entries"][number][] = [];
  for (let count = random.integer(0, 30); count > 0; count--) {
    const frame = frames.length;
    const plainBytes = random.pick([1, 2, 4096, frameBytesMax - 1, frameBytesMax]);
    const sealedBytes = random.pick([33, 34, plainBytes + 32, sealedBytesMax]);
    const codec = sealedBytes === plainBytes + 32 ? "stored" : "zstd";
    frames.push({ plainBytes, sealedBytes, codec });
    const lengthMax = type === "pack" ? blockBytesMax : frameBytesMax;
    for (let offsetBytes = 0; offsetBytes < plainBytes;) {
      const left = Math.min(lengthMax, plainBytes - offsetBytes);
      const lengthBytes = random.pick([left, left, random.integer(1, left)]);
      entries.push({ id: random.bytes(idBytes), frame, offsetBytes, lengthBytes });
      offsetBytes += lengthBytes + random.pick([0, 1, frameBytesMax]);
      if (random.chance(0.05) && plainBytes > 2) {
        offsetBytes = Math.max(offsetBytes, plainBytes - 1);
      }
    }
  }
  const [name, salt] = [random.bytes(32), random.bytes(32)];
  return { type, name, salt, epoch: random.pick([1, 2 ** 32 - 1]), frames, entries };
}

test("entry reader: gives back every pack and every place", () => {
  const random = createSeededRandom("entry reader");
  for (let round = 0; round < 20; round++) {
    const pages = new PageCache(cachePageBytes * 8);
    const reader = new EntryReader(pages);
    const packs: IndexPack[] = [];
    for (let at = random.integer(0, 6); at >= 0; at--) {
      const some = Array.from({ length: random.integer(0, 4) }, () => createPack(random));
      const name = random.bytes(32);
      const { shape, bytes } = buildSegmentPages(name, some.map(toIndexColumns));
      assert.deepEqual(parseHead(bytes.subarray(0, cachePageBytes), name), shape);
      assert.equal(parseHead(bytes.subarray(0, cachePageBytes), random.bytes(32)), undefined);
      const segment = reader.add(name, shape, new MemoryPages(bytes));
      packs.push(...some);
      for (const [index, pack] of some.entries()) {
        assert.deepEqual(fromIndexColumns(reader.readPack(segment, index)), pack);
      }
    }
    let number = 0;
    for (const { frames, entries, ...head } of packs) {
      for (const { id, frame, offsetBytes, lengthBytes } of entries) {
        const before = frames.slice(0, frame);
        const { sealedBytes, plainBytes, codec } = present(frames[frame], "a frame");
        assert.deepEqual(reader.locationOf(number), {
          pack: head,
          frame,
          frameOffsetBytes: before.reduce((sum, one) => sum + one.sealedBytes, 64),
          frameSealedBytes: sealedBytes,
          framePlainBytes: plainBytes,
          codec,
          offsetBytes,
          lengthBytes,
        });
        assert.ok(reader.hasId(number, id, 0));
        const byte = random.integer(0, idBytes - 1);
        assert.equal(reader.hasId(number, id.with(byte, (id[byte] ?? 0) ^ 1), 0), false);
        number++;
      }
    }
    assert.equal(reader.numbers, number);
  }
});

test("entry reader: uses no page of which a byte changed", () => {
  const random = createSeededRandom("entry reader damage");
  const pack = {
    ...createPack(random),
    frames: [{ sealedBytes: 42, plainBytes: 10, codec: "stored" as const }],
    entries: [{ id: random.bytes(idBytes), frame: 0, offsetBytes: 3, lengthBytes: 7 }],
  };
  const name = random.bytes(32);
  const { shape, bytes } = buildSegmentPages(name, [toIndexColumns(pack)]);
  assert.equal(bytes.length, 4 * cachePageBytes);
  for (let at = cachePageBytes; at < bytes.length; at++) {
    bytes[at] = (bytes[at] ?? 0) ^ (1 << random.integer(0, 7));
    const reader = new EntryReader(new PageCache(cachePageBytes * 8));
    reader.add(name, shape, new MemoryPages(bytes));
    assert.throws(() => reader.locationOf(0), CacheUnreadable, `byte ${at}`);
    bytes.set(buildSegmentPages(name, [toIndexColumns(pack)]).bytes);
  }
  const moved = bytes.slice();
  moved.copyWithin(cachePageBytes, 2 * cachePageBytes, 3 * cachePageBytes);
  const reader = new EntryReader(new PageCache(cachePageBytes * 8));
  reader.add(name, shape, new MemoryPages(moved));
  assert.throws(() => reader.hasId(0, pack.name, 0), CacheUnreadable, "a page of another place");
  reader.add(random.bytes(32), shape, new MemoryPages(bytes));
  assert.throws(() => reader.hasId(1, pack.name, 0), CacheUnreadable, "a page of another segment");
});
