// Goal: ids are keyed BLAKE3 and checksums are a linear keyed sum, as the format says, whatever the
// content. Method: an independent BLAKE3 as oracle, and GMAC recomputed from whole windows.
import assert from "node:assert/strict";
import { createCipheriv } from "node:crypto";
import { test } from "node:test";

import { blake3 } from "@noble/hashes/blake3.js";
import * as fc from "fast-check";

import { idBytes, pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import { createSeededRandom, readTestSeed } from "#testing/seeded-random.ts";
import {
  checksumBytes,
  computeChecksumDelta,
  computeId,
  computeWindowChecksum,
  xorChecksums,
  zeroWindowChecksum,
} from "./hashing.ts";

const seed = readTestSeed();

test("hashing: ids are the first 24 bytes of keyed BLAKE3", () => {
  const random = createSeededRandom("ids");
  const lengths = [0, 1, 63, 64, 65, 1023, 1024, 1025, 4096, 8192, 65_537, windowBytes];
  for (const length of [...lengths, ...Array.from({ length: 40 }, () => random.integer(0, 9000))]) {
    const [key, content] = [random.bytes(32), random.bytes(length)];
    const expected = blake3(content, { key }).subarray(0, idBytes);
    assert.deepEqual(computeId(key, content), new Uint8Array(expected), `${length} bytes`);
  }
});

test("hashing: ids do not depend on where in memory the content lies", () => {
  const random = createSeededRandom("views");
  const [key, content] = [random.bytes(32), random.bytes(5000)];
  const room = new Uint8Array(6000).fill(0xee);
  for (const at of [0, 1, 7, 999]) {
    room.set(content, at);
    assert.deepEqual(computeId(key, room.subarray(at, at + 5000)), computeId(key, content));
  }
});

test("hashing: the checksum of a window is its GMAC under a zero nonce", () => {
  const random = createSeededRandom("gmac");
  const [key, window] = [random.bytes(32), random.bytes(windowBytes)];
  const cipher = createCipheriv("aes-256-gcm", key, Buffer.alloc(12));
  cipher.setAAD(window).final();
  assert.deepEqual(Buffer.from(computeWindowChecksum(key, window)), cipher.getAuthTag());
  assert.deepEqual(
    Buffer.from(zeroWindowChecksum(key)),
    Buffer.from(computeWindowChecksum(key, new Uint8Array(windowBytes))),
  );
});

test("hashing: a delta of any changed pages leads to the checksum of the new window", () => {
  const random = createSeededRandom("delta");
  const keys = [random.bytes(32), random.bytes(32)];
  const pages = fc.uniqueArray(fc.nat(windowPages - 1), { minLength: 1, maxLength: 64 });
  const fill = fc.constantFrom("random", "zero", "one bit");
  fc.assert(
    fc.property(pages, fill, fc.nat(1), fc.boolean(), (changed, how, which, fromZeros) => {
      const key = keys[which] as Uint8Array;
      const old = fromZeros ? new Uint8Array(windowBytes) : random.bytes(windowBytes);
      const fresh = old.slice();
      for (const page of changed) {
        const target = fresh.subarray(page * pageBytes, (page + 1) * pageBytes);
        if (how === "random") target.set(random.bytes(pageBytes));
        else if (how === "zero") target.fill(0);
        else target[random.integer(0, pageBytes - 1)]! ^= 1 << random.integer(0, 7);
      }
      const first = Math.min(...changed);
      const difference = old.map((byte, at) => byte ^ (fresh[at] as number));
      const delta = computeChecksumDelta(key, first, difference.subarray(first * pageBytes));
      const updated = xorChecksums(computeWindowChecksum(key, old), delta);
      assert.deepEqual(Buffer.from(updated), Buffer.from(computeWindowChecksum(key, fresh)));
    }),
    { seed, numRuns: 60 },
  );
});

test("hashing: deltas of later changes add up, in any order of keys", () => {
  const random = createSeededRandom("sums");
  const key = random.bytes(32);
  const window = new Uint8Array(windowBytes);
  let checksum = zeroWindowChecksum(key);
  for (let round = 0; round < 100; round++) {
    const page = random.integer(0, windowPages - 1);
    const content = round % 9 === 0 ? new Uint8Array(pageBytes) : random.bytes(pageBytes);
    const difference = new Uint8Array(windowBytes - page * pageBytes);
    for (let at = 0; at < pageBytes; at++) {
      difference[at] = (content[at] as number) ^ (window[page * pageBytes + at] as number);
    }
    window.set(content, page * pageBytes);
    checksum = xorChecksums(checksum, computeChecksumDelta(key, page, difference));
    zeroWindowChecksum(random.bytes(32));
  }
  assert.deepEqual(Buffer.from(checksum), Buffer.from(computeWindowChecksum(key, window)));
});

test("hashing: one changed bit anywhere changes the checksum and the id", () => {
  const random = createSeededRandom("bits");
  const [key, window] = [random.bytes(32), random.bytes(windowBytes)];
  const [checksum, id] = [computeWindowChecksum(key, window), computeId(key, window)];
  for (let round = 0; round < 200; round++) {
    const at = random.integer(0, windowBytes - 1);
    const mask = 1 << random.integer(0, 7);
    window[at]! ^= mask;
    assert.notDeepEqual(computeWindowChecksum(key, window), checksum);
    assert.notDeepEqual(computeId(key, window), id);
    window[at]! ^= mask;
  }
});

test("hashing: refuses what is not a whole window or reaches past its end", () => {
  const key = new Uint8Array(32);
  const assertion = { name: "AssertionError" };
  assert.throws(() => computeWindowChecksum(key, new Uint8Array(windowBytes - 1)), assertion);
  assert.throws(() => computeChecksumDelta(key, 1, new Uint8Array(windowBytes)), assertion);
  assert.throws(() => xorChecksums(new Uint8Array(15), new Uint8Array(checksumBytes)), assertion);
});
