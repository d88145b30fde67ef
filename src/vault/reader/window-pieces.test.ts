// Goal: the pieces of any range put every byte where it belongs. Method: copy them from made-up
// blocks and compare with the range cut from whole windows.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { asBuffer } from "#base/bytes.ts";
import { leafWindows, pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import type { Piece, WindowMap } from "#formats/map-node.ts";
import { createSeededRandom, readTestSeed } from "#testing/seeded-random.ts";
import { planPieces } from "./window-pieces.ts";

const random = createSeededRandom("window pieces");
const blocks = Array.from({ length: 5 }, () => ({
  id: random.bytes(24),
  content: random.bytes(windowBytes),
}));
const contents = new Map(blocks.map(({ id, content }) => [asBuffer(id).toString("hex"), content]));

/** A window of random pieces, and what it holds. */
function createWindow(): { map: WindowMap | undefined; content: Uint8Array } {
  const content = new Uint8Array(windowBytes);
  if (random.chance(0.2)) return { map: undefined, content };
  const pieces: Piece[] = [];
  for (let page = 0; page < windowPages;) {
    const pages = Math.min(random.pick([1, 1, 3, 30, 64]), windowPages - page);
    const isZero = random.chance(0.3);
    const block = random.pick(blocks);
    const offsetPages = isZero ? 0 : random.integer(0, windowPages - pages);
    pieces.push({ pages, block: isZero ? undefined : block.id, offsetPages });
    if (!isZero) {
      const from = block.content.subarray(
        offsetPages * pageBytes,
        (offsetPages + pages) * pageBytes,
      );
      content.set(from, page * pageBytes);
    }
    page += pages;
  }
  return { map: { checksum: new Uint8Array(16), pieces }, content };
}

test("window pieces: any range of any windows is filled as it should be", () => {
  const range = fc.tuple(
    fc.nat(leafWindows - 1),
    fc.nat(leafWindows - 1),
    fc.nat(windowBytes),
    fc.nat(windowBytes),
  );
  fc.assert(
    fc.property(range, fc.nat(5), ([a, b, gapPages, cut], leafIndex) => {
      const all = Array.from({ length: leafWindows }, createWindow);
      const [first, last] = [Math.min(a, b), Math.max(a, b)];
      const base = leafIndex * leafWindows;
      const windows = {
        firstWindow: base + first,
        windowCount: last - first + 1,
        leaf: { windows: all.map(({ map }) => map) },
      };
      // A range inside these windows, or one that reaches past them on both sides.
      const start =
        (base + first) * windowBytes +
        (gapPages % 3 === 0 ? -Math.min(gapPages, first * windowBytes) : gapPages);
      const end = (base + last + 1) * windowBytes - (cut % 3 === 0 ? -cut : cut);
      const lengthBytes = Math.max(0, end - start);
      const filled = new Uint8Array(lengthBytes);
      for (const piece of planPieces(windows, { offsetBytes: start, lengthBytes })) {
        assert.ok(piece.lengthBytes > 0 && piece.offsetBytes + piece.lengthBytes <= windowBytes);
        const content = contents.get(asBuffer(piece.block).toString("hex"));
        assert.ok(content);
        const from = content.subarray(piece.offsetBytes, piece.offsetBytes + piece.lengthBytes);
        filled.set(from, piece.targetOffset);
      }
      const expected = new Uint8Array(lengthBytes);
      for (let at = first; at <= last; at++) {
        const window = all[at]?.content ?? new Uint8Array(0);
        const offset = (base + at) * windowBytes - start;
        const inside = window.subarray(Math.max(0, -offset), Math.max(0, lengthBytes - offset));
        if (inside.length > 0 && offset < lengthBytes) expected.set(inside, Math.max(0, offset));
      }
      assert.deepEqual(Buffer.compare(filled, expected), 0);
    }),
    { seed: readTestSeed(), numRuns: 300 },
  );
});

test("window pieces: zeros need no piece", () => {
  const range = { offsetBytes: 0, lengthBytes: windowBytes };
  assert.deepEqual(planPieces({ firstWindow: 0, windowCount: 8, leaf: undefined }, range), []);
});
