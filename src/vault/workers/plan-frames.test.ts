// Goal: each wanted block lies in one frame, at the place that is told, and frames keep their bound.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { bytesEqual } from "#base/bytes.ts";
import { frameBytesMax, windowBytes } from "#formats/geometry.ts";
import { createSeededRandom, readTestSeed } from "#testing/seeded-random.ts";
import { isCompressible } from "#vault/container/compressibility.ts";
import { segmentBytes } from "#vault/limits.ts";
import type { Candidate } from "./page-grouping.ts";
import { gatherFrame, planFrames } from "./plan-frames.ts";

const random = createSeededRandom("plan frames");

/** Blocks of 1 to 64 pages, one after the other with gaps, of random bytes or of text. */
const blocks = fc.array(
  fc.record({ pages: fc.integer({ min: 1, max: 64 }), gap: fc.nat(2), isText: fc.boolean() }),
  { maxLength: 24 },
);

test("plan frames: gathers each block once, in order, within the bound, alike with alike", () => {
  fc.assert(
    fc.property(blocks, fc.constantFrom(windowBytes, frameBytesMax), (list, frameBytes) => {
      const buffer = new ArrayBuffer(segmentBytes);
      const bytes = new Uint8Array(buffer);
      const wanted: Candidate[] = [];
      let end = 0;
      for (const { pages, gap, isText } of list) {
        const offsetBytes = end + gap * 4096;
        const lengthBytes = pages * 4096;
        end = offsetBytes + lengthBytes;
        if (end > segmentBytes) break;
        if (isText) bytes.fill(random.integer(1, 255), offsetBytes, end);
        else bytes.set(random.bytes(lengthBytes), offsetBytes);
        wanted.push({ id: random.bytes(24), offsetBytes, lengthBytes });
      }
      const scratch = new Uint8Array(frameBytesMax);
      const seen: Candidate[] = [];
      for (const frame of planFrames(buffer, wanted, frameBytes)) {
        const plain = gatherFrame(buffer, frame, scratch);
        assert.ok(plain.byteLength > 0 && plain.byteLength <= frameBytes);
        assert.equal(frame.blocks.length, frame.sources.length);
        for (const [at, source] of frame.sources.entries()) {
          const { id, offsetBytes, lengthBytes } = frame.blocks[at] as Candidate;
          assert.equal(id, source.id);
          const from = bytes.subarray(source.offsetBytes, source.offsetBytes + lengthBytes);
          assert.ok(bytesEqual(plain.subarray(offsetBytes, offsetBytes + lengthBytes), from));
          assert.equal(isCompressible(from), frame.compress);
          seen.push(source);
        }
      }
      const byPlace = (a: Candidate, b: Candidate): number => a.offsetBytes - b.offsetBytes;
      assert.deepEqual(seen.toSorted(byPlace), wanted);
    }),
    { seed: readTestSeed(), numRuns: 150 },
  );
});

test("plan frames: tells text, zeros and programs from ciphertext", () => {
  const mixed = random.bytes(windowBytes);
  mixed.fill(0, 0, windowBytes / 4);
  const letters = random.bytes(windowBytes).map((byte) => 97 + (byte % 26));
  for (const content of [new Uint8Array(windowBytes), letters, mixed, random.bytes(4096)]) {
    assert.ok(isCompressible(content));
  }
  for (let round = 0; round < 200; round++) {
    assert.equal(isCompressible(random.bytes(windowBytes)), false, "no block of noise by chance");
  }
});
