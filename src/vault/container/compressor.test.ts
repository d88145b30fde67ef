// Goal: frames that share one zstd context are each a whole frame of their own, byte for byte what a
// context of their own makes of them; this Node has what sharing takes.
// Method: texts, zeros and random bytes of all sizes in any order; one compressor that shares, one that cannot.
import assert from "node:assert/strict";
import { test } from "node:test";
import { zstdDecompressSync } from "node:zlib";

import { frameBytesMax } from "#formats/geometry.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { Compressor } from "./compressor.ts";

test("compressor: a frame does not depend on those before it", () => {
  const random = createSeededRandom("compressor");
  const shared = new Compressor();
  const single = new Compressor({});
  assert.equal(shared.isShared, true, "this Node lets frames share a context");
  assert.equal(single.isShared, false);
  for (let step = 0; step < 120; step++) {
    const sizeBytes = random.pick([1, 4096, frameBytesMax, random.integer(1, frameBytesMax)]);
    const plain = random.bytes(sizeBytes);
    const kind = random.pick(["text", "zeros", "random"] as const);
    if (kind === "zeros") plain.fill(0);
    if (kind === "text") for (const [at, byte] of plain.entries()) plain[at] = 0x61 + (byte & 7);
    const packed = shared.compress(plain);
    assert.deepEqual(zstdDecompressSync(packed), Buffer.from(plain));
    assert.deepEqual(Buffer.from(packed), Buffer.from(single.compress(plain)));
  }
});

test("compressor: random bytes of a whole frame fit, and what is larger is refused", () => {
  const random = createSeededRandom("compressor limits");
  const compressor = new Compressor();
  const plain = random.bytes(frameBytesMax);
  assert.ok(compressor.compress(plain).byteLength > frameBytesMax);
  assert.throws(() => compressor.compress(new Uint8Array(frameBytesMax + 1)), /fits into a frame/);
});
