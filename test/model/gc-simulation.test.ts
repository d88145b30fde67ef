// Goal: in any order of the requests of three writers, two collectors and a deleter, with stops of
// days, deaths at any step and requests carried out twice, every existing point restores, an
// acknowledged one exists, and garbage is freed in the end; and each rule of the protocol is needed.
// Method: the protocol's own code (src/vault/gc), run by src/testing/gc-world.ts over seeded schedules;
// then with one rule broken at a time, until a loss is found, by a schedule written by hand
// (src/testing/gc-directed.ts) where chance needs too long.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { directedRules, runDirected } from "#testing/gc-directed.ts";
import { runSchedule } from "#testing/gc-schedule.ts";
import { mix32, testSeed } from "#testing/seed.ts";
import { protocolRules } from "#vault/gc/steps.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const schedulesPerProcess = isLong ? 2_000_000 : 50_000;
const processes = 2;
/** Schedules after which a broken rule counts as harmless. */
const breakingMax = 10_000;

test("gc simulation: no schedule loses a point or keeps garbage for ever", async () => {
  const seed = testSeed();
  const script = join(import.meta.dirname, "gc-schedules.ts");
  const runs = Array.from({ length: processes }, async (_, at) => {
    const args = [script, String(seed + at * schedulesPerProcess), String(schedulesPerProcess)];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    return JSON.parse(stdout) as { commits: number; problems: string[] };
  });
  const ends = await Promise.all(runs);
  assert.deepEqual(
    ends.flatMap(({ problems }) => problems),
    [],
  );
  const commits = ends.reduce((sum, end) => sum + end.commits, 0);
  console.log(`${processes * schedulesPerProcess} schedules, ${commits} committed points`);
  assert.ok(commits > processes * schedulesPerProcess);
});

for (const rule of protocolRules) {
  if (directedRules.includes(rule)) continue;
  test(`gc simulation: a loss is found where the rule "${rule}" is broken`, () => {
    const seed = testSeed();
    let at = 0;
    let problem: string | undefined;
    while (problem === undefined && at < breakingMax) {
      problem = runSchedule(mix32(seed + at), rule).problem;
      at++;
    }
    assert.ok(problem !== undefined, `none in ${at} schedules`);
    console.log(`${rule}: ${problem}, after ${at} schedules`);
  });
}

for (const rule of directedRules) {
  test(`gc simulation: a schedule written by hand loses a point where "${rule}" is broken, and only there`, () => {
    assert.equal(runDirected(rule, false), undefined);
    const problem = runDirected(rule, true);
    assert.ok(problem !== undefined, "the rule is not needed in this schedule");
    console.log(`${rule}: ${problem}, in a schedule written by hand`);
  });
}
