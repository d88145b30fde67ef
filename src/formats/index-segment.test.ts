// Goal: one content has one encoding; whatever else a store may hold is refused, in bounded memory.
// Method: properties over generated packs, every single-byte change, cuts, hostile bytes, and texts
// that break one rule each.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { AssertionError } from "#base/assert.ts";
import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { blockBytesMax, frameBytesMax, idBytes } from "#formats/geometry.ts";
import {
  encodeIndexSegment,
  fromIndexColumns,
  indexSegmentBytesMax,
  parseIndexSegment,
  parsePackFooter,
  toIndexColumns,
  type IndexEntry,
  type IndexPack,
} from "#formats/index-segment.ts";
import { readTestSeed } from "#testing/seeded-random.ts";

const seed = readTestSeed();
const hostileRuns = process.env["KLUIS_LONG"] === "1" ? 1_000_000 : 8000;
const bytes32 = fc.uint8Array({ minLength: 32, maxLength: 32 });
const name = bytes32.filter((bytes) => bytes.some((byte) => byte !== 0));

const frame = fc
  .record({
    plainBytes: fc.integer({ min: 1, max: frameBytesMax }),
    cipherBytes: fc.integer({ min: 1, max: frameBytesMax + 65_536 }),
    stored: fc.boolean(),
  })
  .map(({ plainBytes, cipherBytes, stored }) => ({
    plainBytes,
    sealedBytes: (stored ? plainBytes : cipherBytes) + 32,
    codec: stored ? ("stored" as const) : ("zstd" as const),
  }));

const cut = fc.record({
  id: fc.uint8Array({ minLength: idBytes, maxLength: idBytes }),
  stay: fc.boolean(),
  gap: fc.integer({ min: 0, max: 5000 }),
  lengthBytes: fc.integer({ min: 1, max: blockBytesMax }),
});

const pack: fc.Arbitrary<IndexPack> = fc
  .record({
    type: fc.constantFrom("pack" as const, "mapPack" as const),
    name,
    salt: bytes32,
    epoch: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    frames: fc.array(frame, { maxLength: 12 }),
    cuts: fc.array(cut, { maxLength: 40 }),
  })
  .map(({ cuts, ...head }) => ({ ...head, entries: place(head.frames, cuts) }));

const segment = fc.uniqueArray(pack, {
  maxLength: 5,
  selector: (value) => Buffer.from(value.name).toString("hex"),
});

type Cut = typeof cut extends fc.Arbitrary<infer T> ? T : never;

/** Entries in the order of the pack, as many as fit. */
function place(frames: IndexPack["frames"], cuts: readonly Cut[]): IndexEntry[] {
  const entries: IndexEntry[] = [];
  let at = 0;
  let end = 0;
  for (const { id, stay, gap, lengthBytes } of cuts) {
    if (!stay) [at, end] = [at + 1, 0];
    const room = (frames[at]?.plainBytes ?? 0) - end - gap;
    if (room < 1) continue;
    const entry = {
      id,
      frame: at,
      offsetBytes: end + gap,
      lengthBytes: Math.min(room, lengthBytes),
    };
    entries.push(entry);
    end = entry.offsetBytes + entry.lengthBytes;
  }
  return entries;
}

/** Whether `bytes` are refused as corrupt, or are the one encoding of what they parse to. */
function isStrict(bytes: Uint8Array): boolean {
  try {
    return bytesEqual(bytes, encodeIndexSegment(parseIndexSegment(bytes).map(fromIndexColumns)));
  } catch (error) {
    return isKluisError(error, "ObjectCorrupt");
  }
}

function refuses(bytes: Uint8Array, reason: RegExp): void {
  assert.throws(
    () => parseIndexSegment(bytes),
    (error) => isKluisError(error, "ObjectCorrupt") && reason.test(error.message),
  );
}

test("index segment: gives the packs back when its encoding is parsed", () => {
  fc.assert(
    fc.property(segment, (packs) => {
      const parsed = parseIndexSegment(encodeIndexSegment(packs));
      assert.deepEqual(parsed.map(fromIndexColumns), packs);
      assert.deepEqual(parsed, packs.map(toIndexColumns));
    }),
    { seed, numRuns: 300 },
  );
});

test("index segment: is named by the store when it is the footer of a pack", () => {
  fc.assert(
    fc.property(pack, (value) => {
      const footer = encodeIndexSegment([{ ...value, name: new Uint8Array(32) }]);
      assert.deepEqual(fromIndexColumns(parsePackFooter(footer, value.name)), value);
      refuses(footer, /no name/);
      const named = encodeIndexSegment([value]);
      assert.throws(() => parsePackFooter(named, value.name), /names a pack/);
      assert.throws(() => parsePackFooter(Uint8Array.of(0), value.name), /not of one pack/);
    }),
    { seed, numRuns: 50 },
  );
});

test("index segment: stays strict when one byte of it changes", () => {
  fc.assert(
    fc.property(segment, fc.integer({ min: 1, max: 255 }), (packs, flip) => {
      const bytes = encodeIndexSegment(packs);
      for (let at = 0; at < bytes.byteLength; at++) {
        bytes[at] = (bytes[at] ?? 0) ^ flip;
        assert.ok(isStrict(bytes), `byte ${at} xor ${flip}`);
        bytes[at] = (bytes[at] ?? 0) ^ flip;
      }
    }),
    { seed, numRuns: 20 },
  );
});

test("index segment: is refused when it is cut or has a byte too many", () => {
  fc.assert(
    fc.property(segment, (packs) => {
      const bytes = encodeIndexSegment(packs);
      for (let length = 0; length < bytes.byteLength; length++) {
        refuses(bytes.subarray(0, length), /Cannot read/);
      }
      refuses(concatBytes([bytes, new Uint8Array(1)]), /left over/);
    }),
    { seed, numRuns: 20 },
  );
});

test("index segment: stays strict when hostile bytes are parsed", () => {
  const small = fc.integer({ min: 0, max: 3 });
  const hostile = fc.oneof(
    fc.uint8Array({ maxLength: 800 }),
    fc
      .array(fc.oneof(small, fc.integer({ min: 0, max: 255 })), { maxLength: 400 })
      .map((numbers) => Uint8Array.from(numbers)),
    fc
      .tuple(segment, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }))
      .map(([packs, edits]) => {
        const bytes = [...encodeIndexSegment(packs)];
        for (const [at, byte] of edits) {
          if (byte % 3 === 0) bytes.splice(at % bytes.length, 1);
          else bytes.splice(at % bytes.length, byte % 3 === 1 ? 1 : 0, byte);
        }
        return Uint8Array.from(bytes);
      }),
  );
  fc.assert(
    fc.property(hostile, (bytes) => {
      assert.ok(isStrict(bytes));
    }),
    { seed, numRuns: hostileRuns },
  );
});

test("index segment: names the rule when a text breaks one", () => {
  const head = concatBytes([
    Uint8Array.of(1, 1),
    new Uint8Array(32).fill(7),
    new Uint8Array(32),
    Uint8Array.of(1),
  ]);
  const rest = (...numbers: number[]): Uint8Array => concatBytes([head, Uint8Array.from(numbers)]);
  const id = Array<number>(idBytes).fill(9);

  assert.ok(parseIndexSegment(rest(1, 42, 10, 0, 2, ...id, 0, 0, 4, ...id, 0, 4, 6)));
  refuses(rest(1, 42, 10, 0, 2, ...id, 0, 0, 4, ...id, 0, 3, 6), /out of order/);
  refuses(rest(1, 42, 10, 0, 1, ...id, 0, 0, 11), /number 11 is above 10/);
  refuses(rest(1, 42, 10, 0, 1, ...id, 0, 10, 1), /number 1 is above 0/);
  refuses(rest(1, 42, 10, 0, 1, ...id, 1, 0, 1), /number 1 is above 0/);
  refuses(rest(1, 42, 10, 0, 1, ...id, 0, 0, 0), /an entry is empty/);
  refuses(rest(1, 42, 11, 0, 0), /two lengths/);
  refuses(rest(1, 42, 10, 2, 0), /no known codec/);
  refuses(rest(1, 32, 10, 1, 0), /sealed length/);
  refuses(rest(1, 33, 0, 1, 0), /plain length/);
  refuses(rest(1, 42, 10, 0, 200, 1, ...id), /number 200 is above/);
  refuses(rest(0, 1, ...id, 0, 0, 1), /entries but no frame/);
  refuses(rest(0, 0).with(1, 3), /no known type/);
  refuses(rest(0, 0).with(66, 0), /epoch 0/);
  const one = rest(0, 0);
  refuses(concatBytes([Uint8Array.of(2), one.subarray(1), one.subarray(1)]), /a pack twice/);
  refuses(new Uint8Array(indexSegmentBytesMax + 1), /too long/);
  const bigFrames = Array.from({ length: 65 }, () => [
    0xa0, 0x80, 0x40, 0x80, 0x80, 0x40, 0,
  ]).flat();
  refuses(rest(65, ...bigFrames, 0), /a pack is too long/);
});

test("index segment: fails an assertion when what is to be encoded is out of form", () => {
  const id = new Uint8Array(idBytes);
  const entry = { id, frame: 0, offsetBytes: 0, lengthBytes: 5 };
  const frames = [{ sealedBytes: 42, plainBytes: 10, codec: "stored" as const }];
  const head = { type: "pack" as const, name: new Uint8Array(32), salt: new Uint8Array(32) };
  const encodes = (change: Partial<IndexPack>): Uint8Array =>
    encodeIndexSegment([{ ...head, epoch: 1, frames, entries: [entry], ...change }]);

  assert.ok(encodes({}));
  assert.throws(() => encodes({ epoch: 0 }), AssertionError);
  assert.throws(() => encodes({ name: new Uint8Array(31) }), AssertionError);
  assert.throws(() => encodes({ salt: new Uint8Array(33) }), AssertionError);
  assert.throws(() => encodes({ frames: [] }), AssertionError);
  assert.throws(() => encodes({ entries: [entry, entry] }), AssertionError);
  assert.throws(() => encodes({ entries: [{ ...entry, frame: 1 }] }), AssertionError);
  assert.throws(() => encodes({ entries: [{ ...entry, lengthBytes: 0 }] }), AssertionError);
  assert.throws(() => encodes({ entries: [{ ...entry, lengthBytes: 11 }] }), AssertionError);
  assert.throws(() => encodes({ entries: [{ ...entry, id: new Uint8Array(23) }] }), AssertionError);
  const stored = { sealedBytes: 43, plainBytes: 10, codec: "stored" as const };
  assert.throws(() => encodes({ frames: [stored] }), AssertionError);
});
