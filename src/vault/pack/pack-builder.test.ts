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
import { openContainer, openFetchedFrame, sealOf } from "#vault/container/container-reader.ts";
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
