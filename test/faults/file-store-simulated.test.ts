// Goal: whatever a power failure leaves of what no fsync covered, on the weakest file system that
// POSIX allows, no promised object is lost, no removed one comes back, no name stands for anything
// but whole content, and the store goes on.
// Method: processes on a simulated file system; cut its log at random moments, keep a random part of
// what was not synced (torn at 512 bytes, names in any order), look at what is left, put everything
// again and cut once more. Then leave single fsyncs out and see that the losses show.
// KLUIS_LONG=1 runs thirty times as many.
import assert from "node:assert/strict";
import { constants } from "node:fs";
import { dirname } from "node:path";
import { test } from "node:test";

import type { KluisError } from "#base/kluis-error.ts";
import { SimulatedFiles } from "#testing/simulated-files.ts";
import { readTestSeed, SeededRandom } from "#testing/seeded-random.ts";
import {
  findViolations,
  openSimulatedStore,
  runScenario,
  type Scenario,
  storeRoot,
} from "./simulated-writers.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const seed = readTestSeed();
const scenarios = isLong ? 4000 : 120;
const cutsEach = 6;

/** What is wrong after a power failure at `moment`, and after another one once all is put again. */
async function cut(scenario: Scenario, moment: number, random: SeededRandom): Promise<string[]> {
  const left = scenario.files.afterPowerLoss(moment, random);
  const store = await openSimulatedStore(left.startProcess());
  const violations = [...(await findViolations(store, scenario, moment))];
  if (random.chance(0.5)) return violations;
  const next = await openSimulatedStore(left.startProcess());
  for (const [name, content] of scenario.contents) await next.put(name, [content]);
  const again = left.afterPowerLoss(left.moment, random);
  const last = await openSimulatedStore(again.startProcess());
  for (const name of scenario.contents.keys()) {
    if ((await last.stat(name)) === undefined) violations.push(`"${name}" is lost the second time`);
  }
  const atEnd = await findViolations(last, { ...scenario, promises: [] }, 0);
  return [...violations, ...atEnd];
}

interface Total {
  cuts: number;
  promises: number;
  violations: string[];
  errors: KluisError[];
}

/** Runs scenarios under a rule for faults, each cut several times. */
async function runAll(
  label: string,
  count: number,
  rules: {
    readonly processesMax: number;
    readonly prepare?: (files: SimulatedFiles, random: SeededRandom) => void;
  },
): Promise<Total> {
  const total: Total = { cuts: 0, promises: 0, violations: [], errors: [] };
  for (let at = 0; at < count; at++) {
    const random = new SeededRandom(`${seed} ${label} ${at}`);
    const scenario = await runScenario(random, {
      processesMax: rules.processesMax,
      prepare: (files) => rules.prepare?.(files, random),
    });
    total.errors.push(...scenario.errors);
    total.promises += scenario.promises.filter((one) => one.endedAt !== undefined).length;
    for (let cuts = 0; cuts < cutsEach; cuts++) {
      const moment = random.integer(0, scenario.files.moment);
      // The end, where everything is promised, more often than by chance.
      const at = cuts === 0 ? scenario.files.moment : moment;
      for (const one of await cut(scenario, at, random)) {
        total.violations.push(`${label} ${total.cuts}: ${one}`);
      }
      total.cuts++;
    }
  }
  return total;
}

test("simulated power loss: no promise is broken, whatever part of what was not synced is left", async () => {
  const { cuts, promises, violations, errors } = await runAll("power loss", scenarios, {
    processesMax: 3,
  });
  console.log(`${cuts} power losses, ${promises} promises, ${violations.length} broken`);
  assert.deepEqual(violations.slice(0, 5), []);
  assert.deepEqual(errors.map(String), []);
});

test("simulated power loss: folders that somebody made, and did not come to sync, are durable too", async () => {
  for (const made of [["/srv"], ["/srv", "/srv/backup"], ["/srv", "/srv/backup", storeRoot]]) {
    const random = new SeededRandom(`${seed} ${made.length} folders`);
    const files = new SimulatedFiles(random);
    const died = files.startProcess();
    for (const path of made) {
      if (path !== "/srv")
        await (await died.open(dirname(dirname(path)), constants.O_RDONLY)).sync();
      await died.mkdir(path);
    }
    const store = await openSimulatedStore(files.startProcess());
    await store.put("a", [Uint8Array.of(1)]);
    for (let cuts = 0; cuts < 20; cuts++) {
      const left = files.afterPowerLoss(files.moment, random);
      const again = await openSimulatedStore(left.startProcess());
      assert.deepEqual(await again.stat("a"), { name: "a", sizeBytes: 1 }, made.join());
    }
  }
});

/** Ignores every fsync that `isLeftOut` names. */
function ignoring(isLeftOut: (path: string) => boolean) {
  return (files: SimulatedFiles): void => {
    files.fault = ({ call, path }) =>
      call === "fsync" && isLeftOut(path) ? { kind: "ignored" } : undefined;
  };
}

test("simulated power loss: leaving out any one kind of fsync shows", async () => {
  const kinds: readonly (readonly [string, (path: string) => boolean])[] = [
    ["content", (path) => path.includes("/tmp/")],
    ["names in a folder of objects", (path) => /\/(index|vm|packs\/\d)$/.test(path)],
    ["names of folders in packs", (path) => path.endsWith("/packs")],
    ["names in the store's folder", (path) => path.endsWith("/store")],
    ["the store's own name", (path) => path.endsWith("/backup")],
  ];
  for (const [what, isLeftOut] of kinds) {
    const rules = { processesMax: 3, prepare: ignoring(isLeftOut) };
    const { cuts, violations } = await runAll(`without ${what}`, 20, rules);
    console.log(`${violations.length} promises broken in ${cuts} power losses without ${what}`);
    assert.ok(violations.length > 0, `the simulation notices a missing fsync of ${what}`);
  }
});

/** From the n-th call that takes space on there is none; the write that meets this may be cut short. */
function fillUp(files: SimulatedFiles, random: SeededRandom): void {
  const takesSpace = new Set(["open", "writev", "link", "mkdir"]);
  let left = random.integer(0, 80);
  let isCut = random.chance(0.5);
  files.fault = ({ call }) => {
    if (!takesSpace.has(call) || left-- > 0) return undefined;
    if (call !== "writev" || !isCut) return { kind: "error", errno: "ENOSPC" };
    isCut = false;
    return { kind: "short" };
  };
}

test("simulated power loss: a file system that is full from any call on breaks no promise", async () => {
  const rules = { processesMax: 3, prepare: fillUp };
  const { cuts, promises, violations, errors } = await runAll("full", scenarios >> 1, rules);
  console.log(`${cuts} power losses of full file systems, ${promises} promises`);
  assert.deepEqual(violations.slice(0, 5), []);
  assert.ok(errors.length > 0);
  assert.deepEqual(errors.filter(({ code }) => code !== "StoreNoSpace").map(String), []);
});

/** One fsync fails, and what it was to cover is dropped. */
function failOneSync(files: SimulatedFiles, random: SeededRandom): void {
  let left = random.integer(0, 40);
  files.fault = ({ call }) =>
    call === "fsync" && left-- === 0 ? { kind: "error", errno: "EIO" } : undefined;
}

test("simulated power loss: an fsync that fails is never followed by a false promise", async () => {
  // Only the process that is told of the failure can know: docs/adr/0003-keys-and-stores.md.
  const rules = { processesMax: 1, prepare: failOneSync };
  const { cuts, promises, violations, errors } = await runAll("sync", scenarios >> 1, rules);
  console.log(`${cuts} power losses after failed fsyncs, ${promises} promises`);
  assert.deepEqual(violations.slice(0, 5), []);
  assert.ok(errors.length > 0);
  assert.deepEqual(errors.filter(({ code }) => code !== "StoreUnavailable").map(String), []);
});
