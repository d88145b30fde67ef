// Goal: a pack is found by its table and by its own footer alike, and what does not read back is
// never finished in silence.
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { containerHeaderBytes } from "#formats/container.ts";
import { packBytesTarget } from "#formats/geometry.ts";
import { fromIndexColumns, parsePackFooter } from "#formats/index-segment.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import {
  openContainer,
  openFetchedFrame,
  parseFetchedHeader,
  sealOf,
} from "#vault/container/container-reader.ts";
import type { FetchedFrame } from "#vault/container/frame.ts";
import { computeId, computeName } from "#vault/hashing.ts";
import { type FrameBlock, PackBuilder } from "./pack-builder.ts";

const random = createSeededRandom("pack builder");

/** Adds a frame of blocks of these lengths; returns the frame's text. */
function addFrame(builder: PackBuilder, idKey: Uint8Array, lengths: readonly number[]): Uint8Array {
  const plain = random.bytes(lengths.reduce((sum, length) => sum + length, 0));
  let offsetBytes = 0;
  const blocks = lengths.map((lengthBytes): FrameBlock => {
    const start = offsetBytes;
    offsetBytes += lengthBytes;
    return {
      id: computeId(idKey, plain.subarray(start, offsetBytes)),
      offsetBytes: start,
      lengthBytes,
    };
  });
  builder.add(plain, blocks, { compress: true });
  return plain;
}

test("pack builder: every block is found through the table and through the pack's own footer", () => {
  for (const type of ["pack", "mapPack"] as const) {
    for (const verify of [true, false]) {
      const builder = new PackBuilder({ type, keys: testKeys, random, verify });
      assert.ok(builder.isEmpty);
      const idKey = type === "pack" ? testKeys.blockIdKey : testKeys.nodeIdKey;
      const plains = [[100, 5000, 1], [262_144], [7]].map((lengths) =>
        addFrame(builder, idKey, lengths),
      );
      const { bytes, table } = builder.finish();
      const sha256 = computeName(bytes);
      const name = toHex(sha256);
      const opened = openContainer(testKeys, { name, bytes, type });
      const own = fromIndexColumns(parsePackFooter(opened.footer, sha256));
      assert.deepEqual(
        { ...own, entries: own.entries.map((entry) => ({ ...entry, id: toHex(entry.id) })) },
        {
          ...table,
          name: sha256,
          entries: table.entries.map((entry) => ({ ...entry, id: toHex(entry.id) })),
        },
      );
      let offset = containerHeaderBytes;
      for (const [number, frame] of own.frames.entries()) {
        const sealed = bytes.subarray(offset, offset + frame.sealedBytes);
        offset += frame.sealedBytes;
        const plain = openFetchedFrame(sealOf(testKeys, own), sealed, frame, name);
        assert.ok(bytesEqual(plain, plains[number] as Uint8Array));
      }
      assert.equal(own.entries.length, 5);
    }
  }
});

test("pack builder: content that does not match its id is not taken where it is verified", () => {
  const builder = new PackBuilder({ type: "mapPack", keys: testKeys, random, verify: true });
  const plain = random.bytes(100);
  const block = { id: computeId(testKeys.blockIdKey, plain), offsetBytes: 0, lengthBytes: 100 };
  // The id of a block is none of a node.
  assert.throws(
    () => builder.add(plain, [block], { compress: true }),
    (error) => isKluisError(error, "ObjectCorrupt"),
  );
});

test("pack builder: is full at its target, and refuses frames without blocks", () => {
  const builder = new PackBuilder({ type: "pack", keys: testKeys, random, verify: false });
  let frames = 0;
  for (; !builder.isFull; frames++) addFrame(builder, testKeys.blockIdKey, [(1024 * 1024) / 4]);
  assert.ok(builder.sizeBytes >= packBytesTarget && frames === 128);
  const assertion = { name: "AssertionError" };
  assert.throws(() => builder.add(random.bytes(5), [], { compress: false }), assertion);
});

/** A pack of one frame of text, and that frame as it is fetched. */
function packText(): { readonly frame: FetchedFrame; readonly blocks: readonly FrameBlock[] } {
  const plain = new TextEncoder().encode("a page of a log file\n".repeat(3000));
  const half = plain.byteLength / 2;
  const blocks = [0, half].map((offsetBytes): FrameBlock => {
    const content = plain.subarray(offsetBytes, offsetBytes + half);
    return { id: computeId(testKeys.blockIdKey, content), offsetBytes, lengthBytes: half };
  });
  const builder = new PackBuilder({ type: "pack", keys: testKeys, random, verify: true });
  builder.add(plain, blocks, { compress: true });
  const { bytes, table } = builder.finish();
  const [{ sealedBytes } = { sealedBytes: 0 }] = table.frames;
  const sealed = bytes.slice(containerHeaderBytes, containerHeaderBytes + sealedBytes);
  const expected = { sealedBytes, plainBytes: plain.byteLength };
  const header = parseFetchedHeader(sealed, expected, "source");
  const seal = sealOf(testKeys, { type: "pack", epoch: table.epoch, salt: table.salt });
  return { frame: { seal, header, bytes: sealed, objectName: "source" }, blocks };
}

test("pack builder: takes a frame of another pack as it is, under the key of its own", () => {
  const { frame, blocks } = packText();
  const builder = new PackBuilder({ type: "pack", keys: testKeys, random, verify: true });
  addFrame(builder, testKeys.blockIdKey, [5000]);
  builder.addResealed(frame, blocks);
  const { bytes, table } = builder.finish();
  const [, taken] = table.frames;
  assert.equal(taken?.sealedBytes, frame.bytes.byteLength, "compressed as it was");
  assert.equal(taken?.codec, "zstd");
  const opened = openContainer(testKeys, { name: "copy", bytes, type: "pack" });
  const content = opened.content.subarray(5000);
  for (const { id, offsetBytes, lengthBytes } of blocks) {
    const block = content.subarray(offsetBytes, offsetBytes + lengthBytes);
    assert.ok(bytesEqual(computeId(testKeys.blockIdKey, block), id));
  }
  assert.equal(table.entries.length, 3);
});

test("pack builder: a frame of another pack that is not what it should be is refused", () => {
  const create = (): PackBuilder =>
    new PackBuilder({ type: "pack", keys: testKeys, random, verify: true });
  const isCorrupt = (error: unknown): boolean => isKluisError(error, "ObjectCorrupt");
  const { frame, blocks } = packText();
  const [first, second] = blocks;
  assert.ok(first && second);
  const swapped = [first, { ...second, id: new Uint8Array(24) }];
  assert.throws(() => create().addResealed(frame, swapped), isCorrupt);
  for (const at of [5, 20, frame.bytes.byteLength - 1]) {
    const bytes = frame.bytes.slice();
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    assert.throws(() => create().addResealed({ ...frame, bytes }, blocks), isCorrupt);
  }
});
