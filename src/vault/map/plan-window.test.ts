// Goal: a planned window holds the changed pages and the old ones beside them, in canonical form.
// Method: a property against an array of 64 pages, and the joins by example.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { AssertionError } from "#base/assert.ts";
import { windowPages } from "#formats/geometry.ts";
import { encodeLeaf, isJoinable, type Piece, type WindowMap } from "#formats/map-node.ts";
import { readTestSeed } from "#testing/seeded-random.ts";
import { planWindow, type PageChange } from "./plan-window.ts";

const seed = readTestSeed();
const checksum = new Uint8Array(16).fill(5);

interface Cut {
  readonly gap: number;
  readonly pages: number;
  /** 0 for zeros. */
  readonly block: number;
  readonly offset: number;
}

const cuts = fc.array(
  fc.record({
    gap: fc.integer({ min: 0, max: 20 }),
    pages: fc.integer({ min: 1, max: 20 }),
    block: fc.integer({ min: 0, max: 3 }),
    offset: fc.nat(63),
  }),
  { maxLength: 12 },
);

/** Changes in order; offsets are small or go on, so that neighbours often join. */
function toChanges(list: readonly Cut[]): PageChange[] {
  const changes: PageChange[] = [];
  let page = 0;
  for (const cut of list) {
    const firstPage = page + cut.gap;
    const pages = Math.min(cut.pages, windowPages - firstPage);
    if (pages <= 0) break;
    const isZero = cut.block === 0;
    const offsetPages = isZero ? 0 : cut.offset < 40 ? firstPage : cut.offset % (65 - pages);
    changes.push({ firstPage, pages, block: isZero ? undefined : blockOf(cut.block), offsetPages });
    page = firstPage + pages;
  }
  return changes;
}

function blockOf(number: number): Uint8Array {
  return new Uint8Array(24).fill(number);
}

function apply(pages: readonly string[], changes: readonly PageChange[]): string[] {
  const result = [...pages];
  for (const { firstPage, pages: count, block, offsetPages } of changes) {
    for (let at = 0; at < count; at++) {
      result[firstPage + at] = block === undefined ? "0" : `${block[0]}+${offsetPages + at}`;
    }
  }
  return result;
}

function pagesOf(window: WindowMap | undefined): string[] {
  const zeros = Array<string>(windowPages).fill("0");
  let firstPage = 0;
  const changes = (window?.pieces ?? []).map((piece) => {
    const change = { firstPage, ...piece };
    firstPage += piece.pages;
    return change;
  });
  return apply(zeros, changes);
}

test("window plan: equals an array of pages when pages change again and again", () => {
  fc.assert(
    fc.property(fc.array(cuts, { minLength: 1, maxLength: 5 }), (rounds) => {
      let window: WindowMap | undefined;
      let model = pagesOf(undefined);
      for (const changes of rounds.map(toChanges)) {
        window = planWindow(window, changes, checksum);
        model = apply(model, changes);
        assert.deepEqual(pagesOf(window), model);
        assert.equal(
          window === undefined,
          model.every((page) => page === "0"),
        );
        if (window === undefined) continue;
        // The encoder asserts the canonical form.
        encodeLeaf({ windows: [window, ...Array<undefined>(7)] });
      }
    }),
    { seed, numRuns: 500 },
  );
});

test("window plan: joins a change with the pieces beside it when they lie in one block", () => {
  const block = blockOf(1);
  const first: Piece = { pages: 64, block, offsetPages: 0 };
  const base = { checksum, pieces: [first] };
  const other = { firstPage: 10, pages: 2, block: blockOf(2), offsetPages: 0 };
  const changed = planWindow(base, [other], checksum);
  assert.deepEqual(
    changed?.pieces.map((piece) => [piece.pages, piece.offsetPages]),
    [
      [10, 0],
      [2, 0],
      [52, 12],
    ],
  );
  const back = planWindow(changed, [{ ...other, block, offsetPages: 10 }], checksum);
  assert.deepEqual(back, base);
  assert.ok(isJoinable(first, { pages: 1, block: blockOf(1), offsetPages: 64 }));
});

test("window plan: fails an assertion when changes overlap or leave the window", () => {
  const one: PageChange = { firstPage: 5, pages: 2, block: undefined, offsetPages: 0 };
  assert.throws(
    () => planWindow(undefined, [one, { ...one, firstPage: 6 }], checksum),
    AssertionError,
  );
  assert.throws(() => planWindow(undefined, [{ ...one, firstPage: 63 }], checksum), AssertionError);
  assert.throws(() => planWindow(undefined, [{ ...one, pages: 0 }], checksum), AssertionError);
});
