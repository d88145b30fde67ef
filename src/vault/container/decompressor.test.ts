// Goal: frames that share one zstd context come out as with one of their own, whatever came before:
// damaged ones, ones without an end, ones of another length. This Node has what sharing takes.
// Method: frames of all kinds and sizes in any order, each by a decompressor that shares and by one that
// cannot; what fails must fail in both.
import assert from "node:assert/strict";
import { test } from "node:test";
import { zstdCompressSync } from "node:zlib";

import { bytesEqual } from "#base/bytes.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { Compressor } from "./compressor.ts";
import { Decompressor } from "./decompressor.ts";

/** Whether it decompresses; then `target` must hold `plain`. */
function isWhole(
  decompressor: Decompressor,
  packed: Uint8Array,
  { plain, target }: { readonly plain: Uint8Array; readonly target: Uint8Array },
): boolean {
  try {
    decompressor.decompress(packed, target, plain.byteLength);
  } catch {
    return false;
  }
  assert.ok(bytesEqual(target.subarray(0, plain.byteLength), plain));
  return true;
}

test("decompressor: a frame does not depend on those before it, damaged ones too", () => {
  const random = createSeededRandom("decompressor");
  const shared = new Decompressor();
  const single = new Decompressor(() => ({}));
  assert.equal(shared.isShared, true, "this Node lets frames share a context");
  assert.equal(single.isShared, false);
  const compressor = new Compressor();
  const memory = new Uint8Array(new SharedArrayBuffer(frameBytesMax + 1));
  const own = new Uint8Array(frameBytesMax + 1);
  const seen = new Set<string>();
  for (let step = 0; step < 150; step++) {
    const plain = random.bytes(random.pick([1, 63, 64, 4096, random.integer(1, frameBytesMax)]));
    if (random.pick([true, false])) {
      for (const [at, byte] of plain.entries()) plain[at] = 0x61 + (byte & 7);
    }
    const packed = new Uint8Array(compressor.compress(plain));
    const kind = random.pick(["sound", "sound", "flipped", "cut", "longer", "joined"] as const);
    let damaged = packed;
    if (kind === "flipped") {
      const at = random.integer(0, packed.byteLength - 1);
      damaged = packed.map((byte, place) => (place === at ? byte ^ (1 << (step % 8)) : byte));
    }
    if (kind === "cut") damaged = packed.subarray(0, random.integer(0, packed.byteLength - 1));
    if (kind === "longer") damaged = Buffer.concat([packed, random.bytes(7)]);
    if (kind === "joined") damaged = Buffer.concat([packed, packed]);
    // A flipped bit may give another content of the same length, which only the id of a block tells.
    if (kind === "flipped") {
      tryBoth(shared, single, damaged, { plain, memory, own });
      continue;
    }
    const one = isWhole(shared, damaged, { plain, target: memory });
    assert.equal(one, isWhole(single, damaged, { plain, target: own }), `step ${step}: ${kind}`);
    assert.ok(kind !== "sound" || one, `step ${step}`);
    seen.add(`${kind} ${one}`);
  }
  assert.ok(seen.has("sound true") && seen.has("cut false"), [...seen].join(", "));
});

/** Both fail, or both give the same. */
function tryBoth(
  shared: Decompressor,
  single: Decompressor,
  packed: Uint8Array,
  place: { readonly plain: Uint8Array; readonly memory: Uint8Array; readonly own: Uint8Array },
): void {
  const { byteLength } = place.plain;
  const run = (one: Decompressor, target: Uint8Array): boolean => {
    try {
      one.decompress(packed, target, byteLength);
      return true;
    } catch {
      return false;
    }
  };
  const isDone = run(shared, place.memory);
  assert.equal(isDone, run(single, place.own));
  const [a, b] = [place.memory, place.own].map((bytes) => bytes.subarray(0, byteLength));
  assert.ok(!isDone || bytesEqual(a ?? place.own, b ?? place.own));
}

test("decompressor: a frame without an end is refused where it shows, and harms no other", () => {
  const plain = Buffer.from("0123456789abcdefghij");
  const packed = zstdCompressSync(plain);
  // One stored block; bit 0 of its header says that it is the last.
  const endless = Buffer.from(packed);
  const blockAt = packed.byteLength - plain.byteLength - 3;
  endless[blockAt] = (endless[blockAt] ?? 0) & 0xfe;
  const shared = new Decompressor();
  const room = new Uint8Array(plain.byteLength + 1);
  const exact = new Uint8Array(plain.byteLength);
  assert.equal(isWhole(shared, endless, { plain, target: room }), false);
  for (let round = 0; round < 3; round++) {
    assert.equal(isWhole(shared, endless, { plain, target: exact }), true, "it cannot show");
    assert.equal(isWhole(shared, packed, { plain, target: exact }), true, `round ${round}`);
  }
});

test("decompressor: another length than expected is refused", () => {
  const plain = new Uint8Array(5000).fill(7);
  const packed = zstdCompressSync(plain);
  const shared = new Decompressor();
  for (const lengthBytes of [1, 4999, 5001, 9000]) {
    const target = new Uint8Array(lengthBytes + 1);
    assert.throws(() => shared.decompress(packed, target, lengthBytes), Error, `${lengthBytes}`);
  }
  shared.decompress(packed, new Uint8Array(5000), 5000);
});
