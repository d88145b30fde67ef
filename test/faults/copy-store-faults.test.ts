/**
 * Goal: an error of either store at any call, a lost answer, a full disk and a cancellation end a copy
 * with a typed error, leave only points that restore, and cost nothing but another run.
 * Method: the fault meets each call of the copy in turn; then the same copy is run again.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { FaultyStore, injectedError } from "#testing/faulty-store.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { replicateVault } from "#vault/replicate.ts";
import { assertCopyWhole, contentOf, copyOptions, createCopyWorld, idsOf } from "./copy-world.ts";
import { HookedStore } from "#testing/hooked-store.ts";

const random = createSeededRandom("copy store faults");
const isLong = process.env["KLUIS_LONG"] === "1";
const world = await createCopyWorld(random);
let cases = 0;

/** Runs a copy that may break off, looks at what it left, and runs it again. */
async function breakOff(secondary: ObjectStore, first: () => Promise<unknown>): Promise<boolean> {
  let isBroken = false;
  try {
    await first();
  } catch (error) {
    isBroken = true;
    const isExpected = isKluisError(error) && error.code !== "Internal";
    assert.ok(isExpected || (error as Error).name === "AbortError", String(error));
  }
  cases++;
  if (cases % 4 === 0) await assertCopyWhole(secondary, world, cases % 40 === 0);
  const report = await replicateVault(copyOptions(world, secondary));
  assert.deepEqual([report.heldBack, report.damaged, report.lag.bytes], [[], [], 0]);
  const got = await contentOf(secondary);
  for (const [name, bytes] of await contentOf(world.primary)) {
    // The inventory is about one store.
    if (!name.startsWith("inventory/")) assert.deepEqual(got.get(name), bytes, name);
  }
  return isBroken;
}

test("copy store faults: an error at any call of either store", async () => {
  for (const side of ["primary", "secondary"] as const) {
    for (const kind of ["error", "lost-answer"] as const) {
      if (side === "primary" && kind === "lost-answer") continue;
      for (let after = 0; ; after += isLong ? 1 : 2) {
        const secondary = createMemoryStore();
        const faulty = new FaultyStore(side === "primary" ? world.primary : secondary);
        const fault = { kind, error: injectedError() };
        faulty.inject({ method: kind === "error" ? "any" : "put", after, fault });
        const options = { ...copyOptions(world, secondary), [side]: faulty };
        if (!(await breakOff(secondary, () => replicateVault(options)))) break;
      }
    }
  }
  assert.deepEqual(await assertCopyWhole(world.primary, world, false), idsOf(world.points));
});

test("copy store faults: a secondary that fills up at every object", async () => {
  for (const share of [0, 0.01, 0.2, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999]) {
    let total = 0;
    for (const [name, bytes] of await contentOf(world.primary)) {
      if (!name.startsWith("inventory/")) total += bytes.byteLength;
    }
    const secondary = createMemoryStore();
    const full = new FaultyStore(secondary);
    full.limitSpace(Math.floor(total * share));
    const isBroken = await breakOff(secondary, () => replicateVault(copyOptions(world, full)));
    assert.ok(isBroken, `it is full at ${share}`);
  }
});

test("copy store faults: a cancellation at any call", async () => {
  for (let at = 0; ; at += isLong ? 1 : 5) {
    const secondary = createMemoryStore();
    const primary = new HookedStore(world.primary);
    const controller = new AbortController();
    let calls = 0;
    primary.hook = () => {
      if (calls++ === at) controller.abort();
      return Promise.resolve();
    };
    const options = { ...copyOptions(world, secondary), primary, signal: controller.signal };
    if (!(await breakOff(secondary, () => replicateVault(options)))) break;
  }
  console.log(`${cases} faults of stores while a vault was copied`);
  assert.ok(cases > 60);
});
