// Goal: each frame that one context compresses opens by itself, whatever was compressed before it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { zstdDecompressSync } from "node:zlib";

import { frameBytesMax } from "#formats/geometry.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { FrameCompressor } from "./frame-compressor.ts";

const random = createSeededRandom("frame compressor");

/** Bytes of which a part repeats what came before, so that a frame gains from its own past alone. */
function createContent(sizeBytes: number): Uint8Array {
  const content = random.bytes(sizeBytes);
  const period = random.integer(1, 5000);
  for (let at = period; at < sizeBytes; at++) {
    if (at % 16_384 < 9000) content[at] = content[at - period] ?? 0;
  }
  return content;
}

test("frame compressor: frames of every size open by themselves, in any order", async () => {
  const compressor = new FrameCompressor();
  const sizes = [1, 2, 4096, 65_537, frameBytesMax - 1, frameBytesMax];
  for (let more = 0; more < 60; more++) sizes.push(random.integer(1, frameBytesMax));
  const frames: { readonly plain: Uint8Array; readonly packed: Uint8Array }[] = [];
  for (const size of sizes) {
    const plain = size % 5 === 0 ? random.bytes(size) : createContent(size);
    frames.push({ plain, packed: await compressor.compress(plain) });
  }
  for (const { plain, packed } of frames.toReversed()) {
    const opened = zstdDecompressSync(packed, { maxOutputLength: plain.byteLength });
    assert.ok(Buffer.compare(opened, plain) === 0, `a frame of ${plain.byteLength} bytes`);
  }
});

test("frame compressor: refuses a second frame while one is under way", async () => {
  const compressor = new FrameCompressor();
  const first = compressor.compress(new Uint8Array(frameBytesMax));
  await assert.rejects(compressor.compress(new Uint8Array(1)), /one after the other/);
  assert.ok((await first).byteLength < 1000);
});
