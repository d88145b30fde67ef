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
  planBitmap,
  planCuts,
  planUnion,
  type ChainBitmap,
} from "./bitmap-chain.ts";

/** What is told of a bitmap in its name, and what QEMU tells beside it. */
interface ListedChange {
  readonly sizeBytes?: number;
  readonly startsChain?: boolean;
  readonly [field: string]: unknown;
}

function listed(
  sequence: number,
  { sizeBytes = 8192, startsChain = false, ...change }: ListedChange = {},
): object {
  const snapshotId = `s${String(sequence)}`;
  return {
    name: bitmapName({ sequence, snapshotId, sizeBytes, startsChain }),
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
  const plan = planUnion(chain, ids);
  assert.ok(plan.known);
  assert.deepEqual(plan.names, ["kluis:1:s1:8192", "kluis:2:s2:8192"]);
});

test("bitmap chain: says why a base is no ground for an increment", () => {
  const cases: readonly (readonly [readonly object[], RegExp])[] = [
    [[listed(2), listed(3)], /has no bitmap of snapshot "s1"/],
    [[listed(1), listed(2)], /has no bitmap/],
    [[listed(1, { inconsistent: true }), listed(3)], /is inconsistent/],
    [[listed(1), listed(2, { busy: true }), listed(3)], /another program/],
    [[listed(1, { granularity: 65536 }), listed(3)], /granularity/],
    [[listed(1), listed(2, { startsChain: true }), listed(3)], /begin anew with snapshot "s2"/],
    [[listed(1), listed(3, { startsChain: true })], /begin anew/],
  ];
  for (const [list, reason] of cases) {
    const plan = planUnion(parseChain(list), ids);
    assert.ok(!plan.known && reason.test(plan.reason), plan.known ? "known" : plan.reason);
  }
  const ordered = parseChain([listed(1), listed(3)]);
  assert.ok(!planUnion(ordered, { baseId: "s3", snapshotId: "s1" }).known);
  const started = parseChain([listed(1, { startsChain: true }), listed(3)]);
  assert.ok(planUnion(started, ids).known);
});

test("bitmap chain: goes on only where the last bitmap says all up to the instant", () => {
  const cases: readonly (readonly [readonly object[], boolean])[] = [
    [[], true],
    [[listed(1)], false],
    [[listed(1, { recording: false })], true],
    [[listed(1, { sizeBytes: 12_288 })], true],
    [[listed(1, { sizeBytes: 12_288 }), listed(2, { startsChain: true })], false],
    [[listed(1, { sizeBytes: 4096 })], false],
  ];
  for (const [list, startsChain] of cases) {
    const chain = parseChain(list);
    const next = planBitmap(chain, { snapshotId: "s99", sizeBytes: 8192 });
    assert.equal(next.startsChain, startsChain, JSON.stringify(list));
    assert.ok(next.sequence > (chain.at(-1)?.sequence ?? 0));
    assert.deepEqual(parseChain([{ ...listed(0), name: next.name }]), [next]);
  }
});

test("bitmap chain: cuts keep every base's changes", () => {
  const prng = createPrng(testSeed());
  for (let round = 0; round < 200; round += 1) {
    const count = 1 + prng.below(14);
    const pages = new Map<string, Set<number>>();
    const chain: ChainBitmap[] = parseChain(
      Array.from({ length: count }, (_, at) => listed(at, { startsChain: prng.below(8) === 0 })),
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
    const before = new Map(chain.map(({ snapshotId }) => [snapshotId, unionFrom(snapshotId)]));
    const live = chain
      .slice(
        Math.max(
          0,
          chain.findLastIndex(({ startsChain }) => startsChain),
        ),
      )
      .filter(({ snapshotId }) => baseIds.has(snapshotId));
    const cuts = planCuts(chain, baseIds);
    // Somebody may use a bitmap: then cutting ends there.
    const done = prng.below(2) === 0 ? cuts : cuts.slice(0, prng.below(cuts.length + 1));
    for (const { name, into } of done) {
      if (into !== undefined) for (const page of pages.get(name) ?? []) pages.get(into)?.add(page);
      pages.delete(name);
    }
    const left = chain.filter(({ name }) => pages.has(name));
    for (const { snapshotId } of left)
      assert.deepEqual(unionFrom(snapshotId), before.get(snapshotId));
    const kept = live.filter((base) => left.includes(base));
    assert.ok(kept.length >= Math.min(live.length, BITMAPS_MAX - 1));
    if (done.length < cuts.length) continue;
    assert.ok(left.length <= BITMAPS_MAX);
    assert.equal(left.at(-1), live.length === 0 ? undefined : chain.at(-1));
    for (const bitmap of left.slice(0, -1)) assert.ok(kept.includes(bitmap));
  }
});
