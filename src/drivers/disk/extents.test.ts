// Goal: aligned extents never call data zero, and collected changes never lose one.
// Method: random extents against models with one entry per 512 bytes.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import type { Extent, ExtentKind } from "#ports/disk.ts";
import { testSeed } from "#testing/seed.ts";
import { assertWholeExtents } from "#testing/suites/disk-reader-suite.ts";
import { alignExtents, ChangeCollector, EXTENT_ALIGN_BYTES } from "./extents.ts";

const seed = testSeed();
const SECTOR = 512;
const sectors = fc.integer({ min: 1, max: 40 });
const kinds = fc.constantFrom<ExtentKind>("data", "zero");

async function* generate(extents: readonly Extent[]): AsyncGenerator<Extent> {
  yield* extents;
}

async function toArray(extents: AsyncIterable<Extent>): Promise<Extent[]> {
  const all: Extent[] = [];
  for await (const extent of extents) all.push(extent);
  return all;
}

test("align extents: data stays data, zero pages stay zero, borders are pages", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(sectors, kinds), { minLength: 1 }), async (parts) => {
      const extents: Extent[] = [];
      let sizeBytes = 0;
      for (const [count, kind] of parts) {
        extents.push({ offsetBytes: sizeBytes, lengthBytes: count * SECTOR, kind });
        sizeBytes += count * SECTOR;
      }
      const aligned = await toArray(alignExtents(generate(extents), sizeBytes));
      assertWholeExtents(aligned, sizeBytes);
      for (const [index, { offsetBytes, lengthBytes, kind }] of aligned.entries()) {
        assert.equal(offsetBytes % EXTENT_ALIGN_BYTES, 0);
        assert.notEqual(kind, aligned[index - 1]?.kind, "neighbours are joined");
        for (let page = offsetBytes; page < offsetBytes + lengthBytes; page += EXTENT_ALIGN_BYTES) {
          const holdsData = extents.some(
            (extent) =>
              extent.kind === "data" &&
              extent.offsetBytes < page + EXTENT_ALIGN_BYTES &&
              extent.offsetBytes + extent.lengthBytes > page,
          );
          assert.equal(kind, holdsData ? "data" : "zero");
        }
      }
    }),
    { seed, numRuns: 500 },
  );
});

function nothing(count: number): ("none" | ExtentKind)[] {
  return Array.from({ length: count }, () => "none");
}

/** What a change list must say of each page: unchanged, data or zero. */
function modelPages(changes: readonly Extent[], sizeBytes: number): ("none" | ExtentKind)[] {
  const bySector = nothing(sizeBytes / SECTOR);
  for (const { offsetBytes, lengthBytes, kind } of changes) {
    bySector.fill(kind, offsetBytes / SECTOR, (offsetBytes + lengthBytes) / SECTOR);
  }
  const pages: ("none" | ExtentKind)[] = [];
  for (let at = 0; at < bySector.length; at += 8) {
    const page = bySector.slice(at, at + 8);
    if (page.every((kind) => kind === "none")) pages.push("none");
    else pages.push(page.every((kind) => kind === "zero") ? "zero" : "data");
  }
  return pages;
}

function toPages(changes: readonly Extent[], sizeBytes: number): ("none" | ExtentKind)[] {
  const pages = nothing(Math.ceil(sizeBytes / EXTENT_ALIGN_BYTES));
  let endBytes = 0;
  for (const { offsetBytes, lengthBytes, kind } of changes) {
    assert.ok(offsetBytes >= endBytes && lengthBytes > 0, "in order");
    assert.equal(offsetBytes % EXTENT_ALIGN_BYTES, 0);
    endBytes = offsetBytes + lengthBytes;
    assert.ok(endBytes % EXTENT_ALIGN_BYTES === 0 || endBytes === sizeBytes);
    pages.fill(kind, offsetBytes / EXTENT_ALIGN_BYTES, Math.ceil(endBytes / EXTENT_ALIGN_BYTES));
  }
  return pages;
}

const changeParts = fc.array(fc.tuple(fc.nat({ max: 30 }), sectors, kinds), { maxLength: 40 });

function toChanges(parts: readonly (readonly [number, number, ExtentKind])[]): {
  changes: Extent[];
  sizeBytes: number;
} {
  const changes: Extent[] = [];
  let at = 0;
  for (const [gap, count, kind] of parts) {
    at += gap * SECTOR;
    const last = changes.at(-1);
    if (gap === 0 && last?.kind === kind) changes.pop();
    const start = gap === 0 && last?.kind === kind ? last.offsetBytes : at;
    changes.push({ offsetBytes: start, lengthBytes: at + count * SECTOR - start, kind });
    at += count * SECTOR;
  }
  return { changes, sizeBytes: at + SECTOR };
}

test("change collector: says of every page what the changes do", () => {
  fc.assert(
    fc.property(changeParts, fc.boolean(), (parts, touchesEnd) => {
      const { changes, sizeBytes } = toChanges(parts);
      const size = touchesEnd && changes.length > 0 ? sizeBytes - SECTOR : sizeBytes;
      const collector = new ChangeCollector(size, 1000);
      for (const { offsetBytes, lengthBytes, kind } of changes) {
        collector.add(offsetBytes, lengthBytes, kind);
      }
      const collected = collector.finish();
      assert.deepEqual(toPages(collected, size), modelPages(changes, size));
    }),
    { seed, numRuns: 1000 },
  );
});

test("change collector: keeps to its limit and loses no change", () => {
  fc.assert(
    fc.property(changeParts, (parts) => {
      const { changes, sizeBytes } = toChanges(parts);
      const collector = new ChangeCollector(sizeBytes, 4);
      for (const { offsetBytes, lengthBytes, kind } of changes) {
        collector.add(offsetBytes, lengthBytes, kind);
      }
      const collected = collector.finish();
      assert.ok(collected.length <= 4);
      const pages = toPages(collected, sizeBytes);
      for (const [index, kind] of modelPages(changes, sizeBytes).entries()) {
        if (kind === "data") assert.equal(pages[index], "data");
        if (kind === "zero") assert.notEqual(pages[index], "none");
        if (pages[index] === "zero") assert.equal(kind, "zero");
      }
    }),
    { seed, numRuns: 1000 },
  );
});
