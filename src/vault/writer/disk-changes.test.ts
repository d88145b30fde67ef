// Goal: a changed size never hides a change, and never brings more than it must.
// Method: disks of a few windows in sectors of 512 bytes; every sector is checked on its own.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { pageBytes, windowBytes } from "#formats/geometry.ts";
import type { Extent } from "#ports/disk.ts";
import { readTestSeed } from "#testing/seeded-random.ts";
import { planResize } from "./disk-changes.ts";

const sector = 512;
const pageSectors = pageBytes / sector;

/** Sizes near the ends of pages and windows, in sectors. */
const size = fc
  .tuple(fc.nat(3), fc.nat(4), fc.integer({ min: -2, max: 2 }))
  .map(([windows, pages, sectors]) =>
    Math.max(0, (windows * windowBytes + pages * pageBytes) / sector + sectors),
  );

/** Kinds of runs of pages, from the start; `undefined` is unchanged. */
const runs = fc.array(
  fc.tuple(fc.integer({ min: 1, max: 90 }), fc.constantFrom("data", "zero", undefined)),
  { maxLength: 12 },
);

/** Page-aligned extents of `runs` up to `endBytes`. */
function toChanges(
  pageRuns: readonly (readonly [number, Extent["kind"] | undefined])[],
  endBytes: number,
): Extent[] {
  const extents: Extent[] = [];
  let offsetBytes = 0;
  for (const [pages, kind] of pageRuns) {
    const lengthBytes = Math.min(pages * pageBytes, endBytes - offsetBytes);
    if (lengthBytes > 0 && kind !== undefined) extents.push({ offsetBytes, lengthBytes, kind });
    offsetBytes += pages * pageBytes;
  }
  return extents;
}

/** Extents of the part from `start` to `end`, both in sectors, on boundaries of sectors. */
function toTail(sectorRuns: readonly number[], start: number, end: number): Extent[] {
  const extents: Extent[] = [];
  let at = start;
  for (let turn = 0; at < end; turn++) {
    const sectors = Math.min(sectorRuns[turn % sectorRuns.length] ?? 1, end - at);
    const kind = turn % 2 === 0 ? "zero" : "data";
    extents.push({ offsetBytes: at * sector, lengthBytes: sectors * sector, kind });
    at += sectors;
  }
  return extents;
}

/** What extents say of each page; fails where they are out of order, unaligned or past `endBytes`. */
function pagesOf(extents: readonly Extent[], endBytes: number): (Extent["kind"] | undefined)[] {
  const pages: (Extent["kind"] | undefined)[] = [];
  let last = 0;
  for (const { offsetBytes, lengthBytes, kind } of extents) {
    assert.ok(offsetBytes >= last && lengthBytes > 0 && offsetBytes % pageBytes === 0);
    last = offsetBytes + lengthBytes;
    assert.ok(last <= endBytes, `${last} is past ${endBytes}`);
    for (let page = offsetBytes / pageBytes; page < last / pageBytes; page++) {
      assert.equal(pages[page], undefined, "a page is named once");
      pages[page] = kind;
    }
  }
  return pages;
}

test("disk changes: unchanged sizes keep the changes as they are", () => {
  const changes: Extent[] = [{ offsetBytes: 0, lengthBytes: 4096 + 512, kind: "data" }];
  assert.equal(planResize(changes, { sizeBytes: 4608, baseSizeBytes: 4608 }, []), changes);
});

test("disk changes: the page in which a disk that grew had ended is read, whatever follows it", () => {
  const changes: Extent[] = [{ offsetBytes: 4096, lengthBytes: 512, kind: "data" }];
  const tail: Extent[] = [{ offsetBytes: 4608, lengthBytes: 8192 - 4608, kind: "zero" }];
  assert.deepEqual(planResize(changes, { sizeBytes: 8192, baseSizeBytes: 4608 }, tail), [
    { offsetBytes: 4096, lengthBytes: 4096, kind: "data" },
  ]);
});

test("disk changes: a disk that grew names every change and every new data, and nothing else", () => {
  fc.assert(
    fc.property(
      size,
      size,
      runs,
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
      (a, b, pageRuns, sectorRuns) => {
        const [base, size] = [Math.min(a, b), Math.max(a, b) + 1];
        const [baseSizeBytes, sizeBytes] = [base * sector, size * sector];
        const changes = toChanges(pageRuns, sizeBytes);
        const tail = toTail(sectorRuns, base, size);
        const planned = pagesOf(planResize(changes, { sizeBytes, baseSizeBytes }, tail), sizeBytes);
        const named = pagesOf(changes, sizeBytes);
        const wanted: (Extent["kind"] | undefined)[] = [];
        for (let page = 0; page < Math.floor(base / pageSectors); page++)
          wanted[page] = named[page];
        if (base % pageSectors !== 0) wanted[Math.floor(base / pageSectors)] = "data";
        for (const { offsetBytes, lengthBytes, kind } of tail) {
          if (kind === "zero") continue;
          const end = offsetBytes + lengthBytes;
          for (let page = Math.floor(offsetBytes / pageBytes); page < end / pageBytes; page++) {
            wanted[page] = "data";
          }
        }
        for (let page = 0; page < size / pageSectors; page++) {
          assert.equal(planned[page], wanted[page], `page ${page}`);
        }
      },
    ),
    { seed: readTestSeed(), numRuns: 3000 },
  );
});

test("disk changes: a disk that shrank names what is left, and zeros up to the end of its last window", () => {
  fc.assert(
    fc.property(size, size, runs, (a, b, pageRuns) => {
      const [size, base] = [Math.min(a, b), Math.max(a, b) + 1];
      const [baseSizeBytes, sizeBytes] = [base * sector, size * sector];
      const windowEnd = Math.ceil(sizeBytes / windowBytes) * windowBytes;
      const changes = toChanges(pageRuns, baseSizeBytes);
      const planned = pagesOf(planResize(changes, { sizeBytes, baseSizeBytes }, []), windowEnd);
      const named = pagesOf(changes, baseSizeBytes);
      for (let page = 0; page < windowEnd / pageBytes; page++) {
        const isCut = page === Math.floor(sizeBytes / pageBytes) && sizeBytes % pageBytes !== 0;
        const inside = isCut ? "data" : named[page];
        const wanted = page * pageBytes < sizeBytes ? inside : "zero";
        assert.equal(planned[page], wanted, `page ${page}`);
      }
    }),
    { seed: readTestSeed(), numRuns: 3000 },
  );
});
