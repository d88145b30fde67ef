/** Goal: joined changes say of every page what the newest layer says. Method: random lists, a model by page. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import type { ChangedExtents, Extent, ExtentKind } from "#ports/disk.ts";
import { testSeed } from "#testing/seed.ts";
import { unionChanges, withGrowth } from "./change-union.ts";

const pages = 64;
type Pages = (ExtentKind | undefined)[];

const extentList = fc
  .array(fc.tuple(fc.nat({ max: 5 }), fc.integer({ min: 1, max: 6 }), fc.boolean()), {
    maxLength: 14,
  })
  .map((parts): ChangedExtents => {
    const extents: Extent[] = [];
    let at = 0;
    for (const [gap, length, isZero] of parts) {
      const start = at + gap;
      if (start + length > pages) break;
      extents.push({ offsetBytes: start, lengthBytes: length, kind: isZero ? "zero" : "data" });
      at = start + length;
    }
    return extents;
  });

function toPages(extents: ChangedExtents, into: Pages = Array.from({ length: pages })): Pages {
  for (const { offsetBytes, lengthBytes, kind } of extents) {
    into.fill(kind, offsetBytes, offsetBytes + lengthBytes);
  }
  return into;
}

function assertOrdered(extents: ChangedExtents): void {
  let end = 0;
  for (const extent of extents) {
    assert.ok(extent.offsetBytes >= end && extent.lengthBytes > 0);
    end = extent.offsetBytes + extent.lengthBytes;
  }
}

test("change union: is what the newer layer says, and else the older", () => {
  fc.assert(
    fc.property(extentList, extentList, (older, newer) => {
      const union = unionChanges(older, newer);
      assertOrdered(union);
      assert.deepEqual(toPages(union), toPages(newer, toPages(older)));
    }),
    { seed: testSeed(), numRuns: 5000 },
  );
});

test("change union: names the new part of a grown disk, zero where no layer holds it", () => {
  fc.assert(
    fc.property(extentList, fc.nat({ max: pages }), (changes, beforeBytes) => {
      const grown = withGrowth(changes, { beforeBytes, nowBytes: pages });
      assertOrdered(grown);
      const expected: Pages = Array.from({ length: pages });
      assert.deepEqual(toPages(grown), toPages(changes, expected.fill("zero", beforeBytes, pages)));
    }),
    { seed: testSeed(), numRuns: 2000 },
  );
});
