// Goal: one content has one encoding, and whatever is not that encoding is refused.
// Method: properties over generated nodes, every single-byte change, cuts, random bytes, and texts
// that break one rule each.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { AssertionError } from "#base/assert.ts";
import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { idBytes, leafBytes, leafWindows, nodeChildren, windowPages } from "#formats/geometry.ts";
import {
  encodeInner,
  encodeLeaf,
  isJoinable,
  mapLevelMax,
  mapLevelOf,
  mapNodeBytesMax,
  parseInner,
  parseLeaf,
  type InnerNode,
  type Leaf,
  type Piece,
} from "#formats/map-node.ts";
import { readTestSeed } from "#testing/seeded-random.ts";

const seed = readTestSeed();
const id = fc.uint8Array({ minLength: idBytes, maxLength: idBytes });
const checksum = fc.uint8Array({ minLength: 16, maxLength: 16 });

/** Cuts 64 pages into pieces; each comes from a small set of blocks, so that references repeat. */
const pieces = fc
  .tuple(
    fc.array(id, { minLength: 1, maxLength: 6 }),
    fc.array(fc.record({ pages: fc.integer({ min: 1, max: 64 }), from: fc.nat(), at: fc.nat() }), {
      maxLength: 70,
    }),
  )
  .map(([blocks, cuts]) => {
    const whole = { pages: windowPages, from: 1, at: 0 };
    const result: Piece[] = [];
    let left = windowPages;
    for (const cut of [...cuts, whole]) {
      const pages = Math.min(cut.pages, left);
      if (pages === 0) break;
      left -= pages;
      const block = cut.from % 4 === 0 ? undefined : blocks[cut.from % blocks.length];
      const offsetPages = block === undefined ? 0 : cut.at % (windowPages - pages + 1);
      push(result, { pages, block, offsetPages });
    }
    return result;
  });

function push(result: Piece[], piece: Piece): void {
  const last = result.at(-1);
  if (last === undefined || !isJoinable(last, piece)) result.push(piece);
  else result[result.length - 1] = { ...last, pages: last.pages + piece.pages };
}

const window = fc
  .tuple(checksum, pieces)
  .map(([sum, list]) =>
    list.every((piece) => piece.block === undefined) ? undefined : { checksum: sum, pieces: list },
  );

const leaf: fc.Arbitrary<Leaf> = fc
  .array(fc.option(window, { nil: undefined }), { minLength: leafWindows, maxLength: leafWindows })
  .filter((windows) => windows.some((entry) => entry !== undefined))
  .map((windows) => ({ windows }));

const inner: fc.Arbitrary<InnerNode> = fc
  .tuple(
    fc.integer({ min: 1, max: mapLevelMax }),
    fc.array(fc.option(id, { nil: undefined }), {
      minLength: nodeChildren,
      maxLength: nodeChildren,
    }),
  )
  .map(([level, children]) => ({ level, children }))
  .filter((node) => node.children.some((child) => child !== undefined));

/** Whether `bytes` are refused as corrupt, or are the one encoding of what they parse to. */
function isStrict(bytes: Uint8Array, parser: "leaf" | "inner"): boolean {
  try {
    const again = parser === "leaf" ? encodeLeaf(parseLeaf(bytes)) : encodeInner(parseInner(bytes));
    return bytesEqual(bytes, again);
  } catch (error) {
    return isKluisError(error, "ObjectCorrupt");
  }
}

function refuses(bytes: Uint8Array, reason: RegExp): void {
  assert.throws(
    () => (bytes[0] === 1 ? parseLeaf(bytes) : parseInner(bytes)),
    (error) => isKluisError(error, "ObjectCorrupt") && reason.test(error.message),
  );
}

test("map node: gives a leaf back when its encoding is parsed", () => {
  fc.assert(
    fc.property(leaf, (value) => {
      const bytes = encodeLeaf(value);
      assert.deepEqual(parseLeaf(bytes), value);
      assert.ok(bytes.byteLength <= mapNodeBytesMax);
    }),
    { seed, numRuns: 300 },
  );
});

test("map node: gives an inner node back when its encoding is parsed", () => {
  fc.assert(
    fc.property(inner, (value) => {
      assert.deepEqual(parseInner(encodeInner(value)), value);
    }),
    { seed, numRuns: 300 },
  );
});

test("map node: refuses each change of one byte or reads another node of that encoding", () => {
  fc.assert(
    fc.property(leaf, inner, fc.integer({ min: 1, max: 255 }), (someLeaf, someInner, flip) => {
      for (const [bytes, parser] of [
        [encodeLeaf(someLeaf), "leaf"],
        [encodeInner(someInner), "inner"],
      ] as const) {
        for (let at = 0; at < bytes.byteLength; at++) {
          const changed = bytes.slice();
          changed[at] = (changed[at] ?? 0) ^ flip;
          assert.ok(isStrict(changed, parser), `byte ${at} xor ${flip}`);
        }
      }
    }),
    { seed, numRuns: 40 },
  );
});

test("map node: refuses every cut and every byte too many", () => {
  fc.assert(
    fc.property(leaf, inner, (someLeaf, someInner) => {
      const leafText = encodeLeaf(someLeaf);
      const innerText = encodeInner(someInner);
      for (let length = 0; length < leafText.byteLength; length++) {
        assert.throws(() => parseLeaf(leafText.subarray(0, length)), /Cannot read a map node/);
      }
      for (let length = 0; length < innerText.byteLength; length++) {
        assert.throws(() => parseInner(innerText.subarray(0, length)), /Cannot read a map node/);
      }
      const extra = new Uint8Array(1);
      assert.throws(() => parseLeaf(concatBytes([leafText, extra])), /left over/);
      assert.throws(() => parseInner(concatBytes([innerText, extra])), /left over/);
    }),
    { seed, numRuns: 20 },
  );
});

test("map node: stays strict when hostile bytes are parsed", () => {
  const small = fc.integer({ min: 0, max: 4 });
  const hostile = fc.oneof(
    fc.uint8Array({ maxLength: 600 }),
    fc.array(fc.oneof(small, fc.integer({ min: 0, max: 255 })), { maxLength: 400 }).map(from),
    fc.tuple(leaf, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 })).map(splice),
  );
  fc.assert(
    fc.property(hostile, (bytes) => {
      const asLeaf = concatBytes([Uint8Array.of(1, 0), bytes.subarray(2)]);
      const asInner = concatBytes([Uint8Array.of(2), bytes.subarray(1)]);
      assert.ok(isStrict(asLeaf, "leaf"));
      assert.ok(isStrict(asInner, "inner"));
    }),
    { seed, numRuns: 3000 },
  );
});

function from(numbers: readonly number[]): Uint8Array {
  return Uint8Array.from(numbers);
}

/** Removes a byte at some places of a leaf's encoding and inserts one at the others. */
function splice([value, edits]: [Leaf, [number, number][]]): Uint8Array {
  const bytes = [...encodeLeaf(value)];
  for (const [at, byte] of edits) {
    if (byte % 2 === 0) bytes.splice(at % bytes.length, 1);
    else bytes.splice(at % bytes.length, 0, byte);
  }
  return Uint8Array.from(bytes);
}

test("map node: names the rule when a leaf breaks one", () => {
  const block = new Uint8Array(idBytes).fill(7);
  const other = new Uint8Array(idBytes).fill(8);
  const sum = new Uint8Array(16);
  const zeros = new Uint8Array(leafWindows - 1);
  const text = (blocks: Uint8Array[], list: number[], rest: Uint8Array = zeros): Uint8Array =>
    concatBytes([
      Uint8Array.of(1, 0, blocks.length),
      ...blocks,
      from(list).subarray(0, 1),
      sum,
      from(list.slice(1)),
      rest,
    ]);

  assert.equal(parseLeaf(text([block], [1, 64, 1, 0])).windows.filter((w) => w).length, 1);
  refuses(text([block], [1, 63, 1, 0]), /a window has 63 pages/);
  refuses(text([block], [2, 63, 1, 0, 2, 0]), /a window has 65 pages/);
  refuses(text([block], [1, 65, 1, 0]), /the number 65 is above 64/);
  refuses(text([block], [2, 0, 1, 0, 64, 1, 0]), /a piece has no pages/);
  refuses(text([block], [2, 32, 1, 0, 32, 1, 32]), /not joined/);
  refuses(text([block], [3, 16, 0, 16, 0, 32, 1, 0]), /not joined/);
  refuses(text([block], [2, 32, 1, 0, 32, 1, 33]), /the number 33 is above 32/);
  refuses(text([block], [1, 64, 2, 0]), /the number 2 is above 1/);
  refuses(text([block, block], [2, 32, 1, 0, 32, 2, 0]), /listed twice/);
  refuses(text([block, other], [1, 64, 1, 0]), /a block is not used/);
  refuses(text([block, other], [2, 32, 2, 0, 32, 1, 0]), /the number 2 is above 1/);
  refuses(text([block], [1, 64, 0]), /a window of zeros has pieces/);
  refuses(text([block], [1, 64, 0x81, 0, 0]), /not in its shortest form/);
  refuses(Uint8Array.of(1, 0, 0, ...zeros, 0), /a leaf is all zeros/);
  refuses(Uint8Array.of(1, 1, 0), /it is not a leaf/);
  refuses(Uint8Array.of(1, 0, 0x81, 4), /above 512/);
  refuses(concatBytes([Uint8Array.of(1), new Uint8Array(mapNodeBytesMax)]), /it is too long/);
});

test("map node: names the rule when an inner node breaks one", () => {
  const child = new Uint8Array(idBytes).fill(1);
  assert.equal(parseInner(concatBytes([Uint8Array.of(2, 1, 0, 128), child])).children[15]?.[0], 1);
  refuses(concatBytes([Uint8Array.of(2, 0, 1, 0), child]), /its level is 0/);
  refuses(concatBytes([Uint8Array.of(2, 9, 1, 0), child]), /its level is 9/);
  refuses(Uint8Array.of(2, 1, 0, 0), /it has no children/);
  refuses(concatBytes([Uint8Array.of(3, 1, 1, 0), child]), /it is not an inner node/);
});

test("map node: fails an assertion when what is to be encoded is not canonical", () => {
  const block = new Uint8Array(idBytes);
  const sum = new Uint8Array(16);
  const encodes = (...list: Piece[]): Uint8Array =>
    encodeLeaf({ windows: [{ checksum: sum, pieces: list }, ...Array<undefined>(7)] });
  const half = { pages: 32, block, offsetPages: 0 };

  assert.ok(encodes({ ...half, pages: 64 }));
  assert.throws(() => encodes(half), AssertionError);
  assert.throws(() => encodes(half, { ...half, offsetPages: 32 }), AssertionError);
  assert.throws(() => encodes(half, { ...half, offsetPages: 33 }), AssertionError);
  assert.throws(() => encodes({ pages: 64, block: undefined, offsetPages: 0 }), AssertionError);
  assert.throws(() => encodeLeaf({ windows: Array<undefined>(8) }), AssertionError);
  assert.throws(() => encodeInner({ level: 1, children: Array<undefined>(16) }), AssertionError);
  assert.throws(() => encodeInner({ level: 9, children: Array<Uint8Array>(16) }), AssertionError);
});

test("map node: has the level of the least tree that covers the disk", () => {
  for (const [sizeBytes, level] of [
    [0, 0],
    [1, 0],
    [leafBytes, 0],
    [leafBytes + 512, 1],
    [16 * leafBytes, 1],
    [16 * leafBytes + 1, 2],
    [2 ** 40, 5],
    [2 ** 42, 6],
    [2 ** 52, 8],
  ] as const) {
    assert.equal(mapLevelOf(sizeBytes), level, `${sizeBytes} bytes`);
  }
});
