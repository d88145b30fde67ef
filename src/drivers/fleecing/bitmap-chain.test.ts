/**
 * Goal: a chain of bitmaps never names too little: a base that is not there, a bitmap that did not
 * record or is faulty is no ground for an increment, and what is cut is merged before it goes.
 * Method: chains as QEMU lists them; a random model in which every bitmap is a set of pages.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { createPrng, testSeed } from "#testing/seed.ts";
import {
  bitmapName,
  BITMAPS_MAX,
  parseChain,
  planCuts,
  planUnion,
  type ChainBitmap,
} from "./bitmap-chain.ts";

function listed(sequence: number, change: object = {}): object {
  const snapshotId = `s${String(sequence)}`;
  return {
    name: bitmapName({ sequence, snapshotId, sizeBytes: 8192 }),
    granularity: 4096,
    recording: true,
    busy: false,
    ...change,
  };
}

const ids = { baseId: "s1", snapshotId: "s3" };

test("bitmap chain: reads its own names in order and no others", () => {
  const chain = parseChain([listed(12), { name: "other" }, { name: "kluis-union" }, listed(3)]);
  assert.deepEqual(
    chain.map(({ sequence, snapshotId, sizeBytes }) => [sequence, snapshotId, sizeBytes]),
    [
      [3, "s3", 8192],
      [12, "s12", 8192],
    ],
  );
  assert.deepEqual(parseChain(undefined), []);
});

test("bitmap chain: a union takes the base and all before the instant", () => {
  const chain = parseChain([listed(0), listed(1, { recording: false }), listed(2), listed(3)]);
  const plan = planUnion(chain, ids, 8192);
  assert.ok(plan.known);
  assert.deepEqual(plan.names, ["kluis:1:s1:8192", "kluis:2:s2:8192"]);
});

test("bitmap chain: says why a base is no ground for an increment", () => {
  const cases: readonly (readonly [readonly object[], RegExp, number])[] = [
    [[listed(2), listed(3)], /has no bitmap of snapshot "s1"/, 8192],
    [[listed(1), listed(2)], /has no bitmap/, 8192],
    [[listed(1, { inconsistent: true }), listed(3)], /is inconsistent/, 8192],
    [[listed(1), listed(2, { busy: true }), listed(3)], /another program/, 8192],
    [[listed(1, { granularity: 65536 }), listed(3)], /granularity/, 8192],
    [[listed(1), listed(2, { recording: false }), listed(3)], /did not record/, 8192],
    [[listed(1), listed(3)], /smaller/, 4096],
  ];
  for (const [list, reason, sizeBytes] of cases) {
    const plan = planUnion(parseChain(list), ids, sizeBytes);
    assert.ok(!plan.known && reason.test(plan.reason), plan.known ? "known" : plan.reason);
  }
  const turned = planUnion(
    parseChain([listed(1), listed(3)]),
    { baseId: "s3", snapshotId: "s1" },
    8192,
  );
  assert.ok(!turned.known);
});

test("bitmap chain: cuts keep every base's changes", () => {
  const prng = createPrng(testSeed());
  for (let round = 0; round < 200; round += 1) {
    const count = 1 + prng.below(14);
    const pages = new Map<string, Set<number>>();
    const chain: ChainBitmap[] = parseChain(
      Array.from({ length: count }, (_, at) => listed(at)),
    ).slice();
    for (const { name } of chain) pages.set(name, new Set([prng.below(50), prng.below(50)]));
    const baseIds = new Set(
      chain.filter(() => prng.below(3) === 0).map(({ snapshotId }) => snapshotId),
    );
    const unionFrom = (snapshotId: string): readonly number[] => {
      const from = chain.findIndex((bitmap) => bitmap.snapshotId === snapshotId);
      const rest = chain.slice(from).flatMap(({ name }) => [...(pages.get(name) ?? [])]);
      return [...new Set(rest)].sort((a, b) => a - b);
    };
    const before = new Map([...baseIds].map((id) => [id, unionFrom(id)]));
    for (const { name, into } of planCuts(chain, baseIds)) {
      if (into !== undefined) for (const page of pages.get(name) ?? []) pages.get(into)?.add(page);
      pages.delete(name);
    }
    const left = chain.filter(({ name }) => pages.has(name));
    assert.ok(left.length <= BITMAPS_MAX && left.at(-1) === chain.at(-1));
    for (const { snapshotId } of left.slice(0, -1)) assert.ok(baseIds.has(snapshotId));
    const kept = [...baseIds].filter((id) => left.some((each) => each.snapshotId === id));
    assert.ok(kept.length >= Math.min(baseIds.size, BITMAPS_MAX - 1));
    for (const id of kept) assert.deepEqual(unionFrom(id), before.get(id));
  }
});
