import assert from "node:assert/strict";
import { homedir } from "node:os";
import { test } from "node:test";

import { assertTidy } from "./findings.ts";
import { groupsOf } from "../runner/groups.ts";
import {
  createSourceFile,
  isTest,
  readTextFiles,
  repositoryRoot,
  toSourceFiles,
} from "./source-files.ts";
import {
  checkMachinePaths,
  checkSwitchedOff,
  checkTestNames,
  checkUnfinished,
} from "./test-rules.ts";

const texts = readTextFiles();
const sources = toSourceFiles(texts);

test("test-names: every test says its subject and what it does, once", () => {
  assertTidy("test-names", checkTestNames(sources));
});

test("test-names: finds a bad name and a name used twice", () => {
  const text = 'test("works", f);\ntest("a: does b", f);\nawait test("a: does b", f);\n';
  const found = checkTestNames([createSourceFile("src/base/x.test.ts", text)]);
  assert.deepEqual(
    found.map((finding) => finding.line),
    [1, 3],
  );
});

test("test-names: takes the subject of a test inside a describe from there", () => {
  const inside = 'describe("lab", () => {\n  test("boots", f);\n  test("ends", f);\n});\n';
  const other = 'describe("agent", () => {\n  test("boots", f);\n});\ntest("boots", f);\n';
  const found = checkTestNames([createSourceFile("src/base/x.test.ts", inside + other)]);
  assert.deepEqual(
    found.map((finding) => finding.line),
    [8],
  );
});

test("test-names: does not take another object's test method for a test", () => {
  const text = 'pattern.test("works"); // test("works")\n';
  assert.equal(checkTestNames([createSourceFile("src/base/x.test.ts", text)]).length, 0);
});

test("switched-off: every test runs", () => {
  assertTidy("switched-off", checkSwitchedOff(sources));
});

test("switched-off: finds methods and options", () => {
  const text =
    'test.skip("a", f);\ntest("b", { only: true }, f);\nt.todo();\ntest("c", { skip }, f);';
  assert.equal(checkSwitchedOff([createSourceFile("src/base/x.test.ts", text)]).length, 4);
});

test("unfinished: no file says that it is not done", () => {
  assertTidy("unfinished", checkUnfinished(texts));
});

test("unfinished: finds a mark in code and in prose", () => {
  const mark = ["TO", "DO"].join("");
  assert.equal(checkUnfinished([{ path: "src/x.ts", text: `// ${mark}: later` }]).length, 1);
  assert.equal(checkUnfinished([{ path: "docs/x.md", text: mark }]).length, 1);
  assert.equal(checkUnfinished([{ path: "src/x.sh", text: "mktemp -t k.XXXXXX" }]).length, 0);
});

test("machine-paths: no file names a path of one machine", () => {
  const author = { root: repositoryRoot, home: homedir() };
  assertTidy("machine-paths", checkMachinePaths(texts, author));
});

test("machine-paths: finds the checkout's place and the author's home, not the system's folders", () => {
  function found(text: string, root: string, home: string): number {
    return checkMachinePaths([{ path: "x.ts", text }], { root, home }).length;
  }
  assert.equal(found('open("/build/kluis/a")', "/build/kluis", "/root"), 1);
  assert.equal(found('open("/build/other")', "/build/kluis", "/root"), 1);
  assert.equal(found('open("/home/ann/x")', "/home/ann/kluis", "/home/ann"), 1);
  assert.equal(found('open("/home/me"); open("/root/x")', "/home/ann/kluis", "/home/ann"), 0);
  assert.equal(
    found('open("/usr/a"); open("/tmp/a"); "docs/build/kluis"', "/build/kluis", "/root"),
    0,
  );
  assert.equal(found('open("/srv/other"); open("/root/x")', "/srv/kluis", "/root"), 0);
  assert.equal(found('open("/srv/kluis/x")', "/srv/kluis", "/root"), 1);
});

test("groups: every test file belongs to exactly one group of the runner", () => {
  for (const { path } of sources.filter((file) => isTest(file.path))) {
    const names = groupsOf(path).map((group) => group.name);
    assert.equal(names.length, 1, `${path} is in ${names.length} groups: ${names.join(", ")}`);
  }
});
