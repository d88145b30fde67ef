// Goal: no written byte is ever left out; below the limit none is made up.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import { testSeed } from "#testing/seed.ts";
import { WrittenRanges } from "./written-ranges.ts";

const DISK_BYTES = 60_000;
const ranges = fc.array(fc.tuple(fc.nat({ max: DISK_BYTES - 900 }), fc.nat({ max: 900 })));

test("written ranges: agree with a model byte by byte, and with a limit name no less", () => {
  fc.assert(
    fc.property(ranges, ranges, fc.constantFrom(2, 1000), (writes, queries, rangesMax) => {
      const written = new WrittenRanges(rangesMax);
      const model = new Uint8Array(DISK_BYTES);
      for (const [offset, length] of writes) {
        written.add(offset, length);
        model.fill(1, offset, offset + length);
      }
      for (const [offset, length] of queries) {
        const named = new Uint8Array(DISK_BYTES);
        let last = offset;
        for (const { start, end } of written.within(offset, length)) {
          assert.ok(start >= last && end > start && end <= offset + length);
          named.fill(1, start, end);
          last = end;
        }
        for (let at = offset; at < offset + length; at++) {
          if (rangesMax === 1000) assert.equal(named[at], model[at]);
          else if (model[at] === 1) assert.equal(named[at], 1);
        }
      }
    }),
    { seed: testSeed() },
  );
});
