// Goal: a collection merges small packs once there are many of them, and only then, and only so many that
// few stay; what it may copy bounds that too.
import assert from "node:assert/strict";
import { test } from "node:test";

import { smallPackBytes, smallPacksLeft, smallPacksMax } from "#vault/limits.ts";
import { type PackUse, planCollection } from "./plan-collection.ts";

/** Packs in which everything is needed. */
function packsOf(count: number, sizeBytes: number): PackUse[] {
  return Array.from({ length: count }, (_, at) => ({
    name: `packs/${sizeBytes}-${at}`,
    sizeBytes: sizeBytes + at,
    entries: 10,
    marked: 10,
    isCondemned: false,
  }));
}

test("plan collection: leaves few small packs, merges the smallest of many, and never full ones", () => {
  const full = packsOf(10, smallPackBytes);
  const few = packsOf(smallPacksMax, 1000);
  assert.deepEqual(planCollection([...full, ...few]).packs, []);
  const many = packsOf(smallPacksMax + 1, 1000);
  const plan = planCollection([...full, ...many]);
  assert.deepEqual(plan.packs, many.slice(0, smallPacksMax + 1 - smallPacksLeft));
  assert.equal(plan.garbageBytes, 0);
  assert.equal(plan.unusedBytesLeft, 0);
});

test("plan collection: merges the smallest first, as far as it may copy", () => {
  const small = packsOf(2 * smallPacksMax, 1000).reverse();
  const { packs } = planCollection(small, { repackBytesMax: 3500 });
  assert.deepEqual(
    packs.map(({ sizeBytes }) => sizeBytes),
    [1000, 1001, 1002],
  );
});

test("plan collection: packs that go anyway do not count as small ones that stay", () => {
  const garbage = packsOf(smallPacksMax, 2000).map((use) => ({ ...use, marked: 0 }));
  const kept = packsOf(10, 1000);
  assert.deepEqual(planCollection([...garbage, ...kept]).packs, garbage);
});
