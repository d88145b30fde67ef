import assert from "node:assert/strict";
import { test } from "node:test";

import { groupsOf, planStages, testGroups } from "./groups.ts";

const paths = [
  "src/base/bytes.test.ts",
  "tools/tidy/mask.test.ts",
  "tools/runner/groups.test.ts",
  "test/property/pack.test.ts",
  "test/vm/freeze.test.ts",
  "test/e2e/cli.test.ts",
];
const everyGroup = testGroups.map((group) => group.name);

test("groups: a file's place tells its group", () => {
  assert.deepEqual(
    paths.map((path) => groupsOf(path).map((group) => group.name)),
    [["unit"], ["tidy"], ["unit"], ["property"], ["vm"], ["e2e"]],
  );
  assert.deepEqual(groupsOf("test/other/x.test.ts"), []);
});

test("groups: files that boot machines run last, and at most two of them side by side", () => {
  for (const [cores, expected] of [
    [1, [2, 1]],
    [2, [3, 2]],
    [16, [17, 2]],
  ] as const) {
    const stages = planStages({ paths, groups: everyGroup, filters: [], cores });
    assert.deepEqual(
      stages.map((stage) => stage.concurrency),
      expected,
    );
    assert.deepEqual(stages[1]?.files, ["test/vm/freeze.test.ts"]);
  }
});

test("groups: filters and group names narrow the plan; an empty stage is left out", () => {
  const stages = planStages({ paths, groups: ["unit", "vm"], filters: ["groups"], cores: 2 });
  assert.deepEqual(stages, [{ files: ["tools/runner/groups.test.ts"], concurrency: 3 }]);
});
