/** Goal: a plan names exactly what the secondary lacks, and the lag is what the plan says. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { type CopyListing, lagOf, listForCopy, planCopy, readHiddenNames } from "./plan-copy.ts";

const hash = "ab".repeat(32);
const item = "c".repeat(32);

function pointOf(timeMs: number): string {
  return `points/${item}/${timeMs.toString(16).padStart(12, "0")}-${"0".repeat(16)}`;
}

const empty: CopyListing = { keys: [], data: [], index: [], points: [] };

test("copy plan: lists what a copy consists of, and neither deleted points nor tombstones", async () => {
  const store = createMemoryStore();
  const names = [
    `keys/${hash}`,
    `packs/ab/${hash}`,
    `maps/ab/${hash}`,
    `index/${hash}`,
    pointOf(1),
  ];
  const others = ["vault.json", "secondary.json", "index/other", `leases/${"0".repeat(16)}`];
  const hidden = [pointOf(2), pointOf(2).replace("points/", "deleted/")];
  for (const name of [...names, ...others, ...hidden]) await store.put(name, [new Uint8Array(7)]);
  await store.put(pointOf(3), [new Uint8Array(113)]);
  const listing = await listForCopy(store, await readHiddenNames(store));
  const listed = Object.values(listing).flatMap((step) => step.map(({ name }) => name));
  assert.deepEqual(listed.sort(), names.sort());
});

test("copy plan: names what is missing by step, points by instant, and sizes that differ", () => {
  const info = (name: string, sizeBytes = 10) => ({ name, sizeBytes });
  const primary: CopyListing = {
    keys: [info("keys/a")],
    data: [info("packs/a"), info("packs/b")],
    index: [info("index/a", 20)],
    points: [info(pointOf(30)), info(pointOf(10)), info(pointOf(20))],
  };
  const secondary = { ...empty, data: [info("packs/a"), info("packs/b", 9)] };
  const plan = planCopy(primary, secondary);
  assert.deepEqual(plan.missing.data, []);
  assert.deepEqual(
    plan.missing.points,
    [10, 20, 30].map((at) => info(pointOf(at))),
  );
  assert.equal(plan.missingBytes, 60);
  const differing = { name: "packs/b", primaryBytes: 10, secondaryBytes: 9 };
  assert.deepEqual(plan.differing, [differing]);
  assert.deepEqual(planCopy(primary, primary).missing, empty);
});

test("copy plan: the lag is the age of the oldest point that is missing", () => {
  const objects = [pointOf(4000), `packs/ab/${hash}`, pointOf(3000)];
  const lag = lagOf(
    objects.map((name) => ({ name, sizeBytes: 5 })),
    10_000,
  );
  const expected = { points: 2, objects: 3, bytes: 15, ageMs: 7000, measuredAtMs: 10_000 };
  assert.deepEqual(lag, expected);
  assert.equal(lagOf([], 10_000).ageMs, 0);
  // The clock of the host that made the point may be ahead.
  assert.equal(lagOf([{ name: pointOf(20_000), sizeBytes: 1 }], 10_000).ageMs, 0);
});
