// Goal: segments name each page that has to be read exactly once, in order, within their bounds.
// Method: random extents and rewrites against a plain list of pages.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import type { Extent } from "#ports/disk.ts";
import { readTestSeed } from "#testing/seeded-random.ts";
import { segmentBytes, segmentPages } from "#vault/limits.ts";
import {
  collectDataWindows,
  countChangedPages,
  pageChanges,
  type PlannedWindow,
  planFull,
  planIncrement,
  type Segment,
  touchedWindows,
} from "./segment-plan.ts";

const seed = readTestSeed();
const windowsPerSegment = segmentBytes / windowBytes;

/** Runs of pages from the start of a disk; `undefined` is a hole. */
const pageRuns = fc.array(
  fc.tuple(
    fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 50, max: 1500 })),
    fc.constantFrom("data", "zero", undefined),
  ),
  { maxLength: 30 },
);

function toExtents(runs: readonly (readonly [number, Extent["kind"] | undefined])[]): Extent[] {
  const extents: Extent[] = [];
  let page = 0;
  for (const [pages, kind] of runs) {
    const [offsetBytes, lengthBytes] = [page * pageBytes, pages * pageBytes];
    if (kind !== undefined) extents.push({ offsetBytes, lengthBytes, kind });
    page += pages;
  }
  return extents;
}

/** The code of {@link pageChanges} for each page that extents name. */
function codesOf(extents: readonly Extent[]): Map<number, number> {
  const codes = new Map<number, number>();
  for (const { offsetBytes, lengthBytes, kind } of extents) {
    for (let at = offsetBytes; at < offsetBytes + lengthBytes; at += pageBytes) {
      codes.set(at / pageBytes, pageChanges[kind]);
    }
  }
  return codes;
}

async function* fromArray<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items;
}

/** The windows of segments in order; also checks the bounds of each. */
function windowsOf(segments: readonly Segment[]): number[] {
  return segments.flatMap((segment) => {
    if (segment.kind === "zeros") {
      assert.ok(segment.windows > 0);
      return Array.from({ length: segment.windows }, (_, at) => segment.firstWindow + at);
    }
    assert.ok(segment.windows.length > 0);
    if (segment.kind === "windows") {
      assert.ok(segment.windows.length <= windowsPerSegment);
      return [...segment.windows];
    }
    const pages = segment.windows.reduce((sum, window) => sum + countChangedPages(window), 0);
    assert.ok(pages <= segmentPages, `${pages} pages`);
    return segment.windows.map(({ window }) => window);
  });
}

/** Pages of a segment are told as they were found. */
function assertPagesAsFound(
  segments: readonly Segment[],
  codes: ReadonlyMap<number, number>,
): void {
  for (const segment of segments) {
    if (segment.kind !== "pages") continue;
    for (const { window, pages } of segment.windows) {
      for (let page = 0; page < windowPages; page++) {
        assert.equal(pages[page], codes.get(window * windowPages + page) ?? pageChanges.none);
      }
    }
  }
}

function assertAscending(numbers: readonly number[]): void {
  for (let at = 1; at < numbers.length; at++) {
    assert.ok((numbers[at] as number) > (numbers[at - 1] as number), "in order, and each once");
  }
}

test("segment plan: a full read names each window that holds data once", async () => {
  await fc.assert(
    fc.asyncProperty(pageRuns, fc.integer({ min: 0, max: 7 }), async (runs, sectors) => {
      const cut = sectors * 512;
      const extents = toExtents(runs).map((extent) => ({
        ...extent,
        // Extents of a reader may start and end on any sector.
        offsetBytes: extent.offsetBytes + (extent.offsetBytes === 0 ? 0 : cut),
        lengthBytes: extent.lengthBytes - (extent.offsetBytes === 0 ? 0 : cut),
      }));
      const expected = new Set<number>();
      for (const { offsetBytes, lengthBytes, kind } of extents) {
        if (kind === "zero") continue;
        const end = offsetBytes + lengthBytes;
        for (let at = offsetBytes; at < end; at += 512) expected.add(Math.floor(at / windowBytes));
      }
      const collected = await collectDataWindows(fromArray(extents));
      const segments = [...planFull(collected)];
      const windows = windowsOf(segments);
      assertAscending(windows);
      assert.deepEqual(windows, [...expected]);
      // All but the last are full: few large reads.
      for (const segment of segments.slice(0, -1)) {
        assert.equal(segment.kind === "windows" && segment.windows.length, windowsPerSegment);
      }
      for (let at = 1; at < collected.length; at++) {
        const [last, next] = [collected[at - 1], collected[at]];
        assert.ok(
          last && next && last.firstWindow + last.windows < next.firstWindow,
          "runs are joined",
        );
      }
    }),
    { seed, numRuns: 400 },
  );
});

test("segment plan: touched windows say what became of each page", () => {
  fc.assert(
    fc.property(pageRuns, (runs) => {
      const extents = toExtents(runs);
      const codes = codesOf(extents);
      const windows = [...touchedWindows(extents)];
      assertAscending(windows.map(({ window }) => window));
      let named = 0;
      for (const touched of windows) {
        assert.ok(countChangedPages(touched) > 0);
        named += countChangedPages(touched);
        for (let page = 0; page < windowPages; page++) {
          const code = codes.get(touched.window * windowPages + page) ?? pageChanges.none;
          assert.equal(touched.pages[page], code);
        }
      }
      assert.equal(named, codes.size);
    }),
    { seed, numRuns: 400 },
  );
});

test("segment plan: the last extent may end inside a page, with the disk", () => {
  const [touched] = touchedWindows([{ offsetBytes: 4096, lengthBytes: 4096 + 512, kind: "data" }]);
  assert.deepEqual([...(touched?.pages.subarray(0, 4) ?? [])], [0, 1, 1, 0]);
});

test("segment plan: refuses extents out of order or off the boundaries of pages", () => {
  const data = (offsetBytes: number): Extent => ({ offsetBytes, lengthBytes: 4096, kind: "data" });
  for (const extents of [[data(8192), data(4096)], [data(0), data(0)], [data(512)]]) {
    assert.throws(() => [...touchedWindows(extents)], { name: "AssertionError" });
  }
});

test("segment plan: an increment reads whole windows, pages or nothing, as each window needs", async () => {
  await fc.assert(
    fc.asyncProperty(pageRuns, fc.nat(), fc.nat(7), async (runs, rewrites, cutPages) => {
      const extents = toExtents(runs);
      const codes = codesOf(extents);
      const end = Math.max(0, ...[...codes.keys()].map((page) => page + 1));
      const sizeBytes = Math.max(1, end - (codes.size === 0 ? 0 : cutPages)) * pageBytes - 512;
      const planned: PlannedWindow[] = [...touchedWindows(extents)].map((touched) => ({
        ...touched,
        isRewritten: ((rewrites >>> (touched.window % 30)) & 1) === 1,
      }));
      const segments: Segment[] = [];
      for await (const segment of planIncrement(fromArray(planned), sizeBytes)) {
        segments.push(segment);
      }
      const windows = windowsOf(segments);
      assert.deepEqual(
        windows,
        planned.map(({ window }) => window),
      );
      const kinds = new Map<number, string>();
      for (const segment of segments) {
        for (const window of windowsOf([segment])) kinds.set(window, segment.kind);
      }
      for (const { window, pages, isRewritten } of planned) {
        const inside = Math.max(1, Math.ceil((sizeBytes - window * windowBytes) / pageBytes));
        const seen = new Set(pages.subarray(0, inside));
        const isWhole = seen.size === 1 && seen.has(pageChanges.data);
        const isZero = seen.size === 1 && seen.has(pageChanges.zero);
        const mixed = isWhole || isRewritten ? "windows" : "pages";
        assert.equal(kinds.get(window), isZero ? "zeros" : mixed, `window ${window}`);
      }
      assertPagesAsFound(segments, codes);
    }),
    { seed, numRuns: 400 },
  );
});
