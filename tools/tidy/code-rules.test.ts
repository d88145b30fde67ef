import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import {
  checkDefaultExports,
  checkDocumented,
  checkDoors,
  checkFileSize,
  fileLinesMax,
} from "./code-rules.ts";
import { assertTidy } from "./findings.ts";
import { createSourceFile, readTextFiles, repositoryRoot, toSourceFiles } from "./source-files.ts";

const texts = readTextFiles();
const sources = toSourceFiles(texts);

function doorsAt(path: string, text: string): number {
  return checkDoors([createSourceFile(path, text)]).length;
}

test("doors: the sources keep to them", () => {
  assertTidy("doors", checkDoors(sources));
});

test("doors: each ambient call is found outside its door and let through inside", () => {
  const cases: readonly (readonly [bad: string, text: string, good: string])[] = [
    ["src/vault/x.ts", "const t = Date.now();", "src/base/clock.ts"],
    ["src/vault/x.ts", "const t = new Date();", "src/base/clock.ts"],
    ["src/vault/x.ts", "const t = performance.now();", "src/base/clock.ts"],
    ["src/drivers/nbd/x.ts", "setTimeout(f, 5);", "src/base/clock.ts"],
    ["src/vault/x.ts", "AbortSignal.timeout(5);", "src/base/clock.ts"],
    ["src/vault/x.ts", 'import { setTimeout } from "node:timers/promises";', "src/base/clock.ts"],
    ["src/vault/x.ts", 'import { randomBytes } from "node:crypto";', "src/base/random.ts"],
    ["src/vault/x.ts", "crypto.getRandomValues(a);", "src/base/random.ts"],
    ["src/cli/x.ts", "const h = process.env.HOME;", "src/bin/x.ts"],
    ["src/cli/x.ts", "process.exit(1);", "src/bin/x.ts"],
    ["src/protect/x.ts", "console.log(1);", "src/cli/x.ts"],
    ["src/vault/x.ts", 'import { spawn } from "node:child_process";', "src/drivers/process/x.ts"],
    ["src/drivers/qemu/x.ts", "process.kill(pid);", "src/drivers/process/x.ts"],
    ["src/drivers/nbd/x.ts", 'import "node:worker_threads";', "src/vault/workers/x.ts"],
    ["src/protect/x.ts", 'import { connect } from "node:net";', "src/drivers/nbd/x.ts"],
    ["src/vault/x.ts", 'import { open } from "node:fs/promises";', "src/vault/cache/x.ts"],
    ["src/vault/x.ts", "await fetch(url);", "src/drivers/s3/x.ts"],
  ];
  for (const [bad, text, good] of cases) {
    assert.equal(doorsAt(bad, text), 1, `${bad}: ${text}`);
    assert.equal(doorsAt(good, text), 0, `${good}: ${text}`);
  }
});

test("doors: Math.random is refused in tests and scripts too", () => {
  assert.equal(doorsAt("src/vault/x.test.ts", "Math.random();"), 1);
  assert.equal(doorsAt("bench/x.ts", "Math.random();"), 1);
});

test("doors: prose, strings and names that only look alike are left alone", () => {
  const text = [
    "// Date.now() and setTimeout(",
    'const s = "process.env and console.log";',
    "clock.setTimeout(5); this.#setTimeout(6); new Date(7); store.fetch(8);",
  ].join("\n");
  assert.equal(doorsAt("src/vault/x.ts", text), 0);
});

test("default-exports: there are none", () => {
  assertTidy("default-exports", checkDefaultExports(sources));
});

test("default-exports: finds both forms", () => {
  const text = "export default f;\nexport { f as default };";
  assert.equal(checkDefaultExports([createSourceFile("src/base/x.ts", text)]).length, 2);
});

test("file-size: every code file can be read in ten minutes", () => {
  assertTidy("file-size", checkFileSize(texts));
});

test("file-size: finds a file of one line too many", () => {
  const text = "x;\n".repeat(fileLinesMax + 1);
  assert.equal(checkFileSize([{ path: "src/base/x.ts", text }]).length, 1);
  assert.equal(checkFileSize([{ path: "src/base/x.ts", text: text.slice(3) }]).length, 0);
});

test("documented: every export of src has a docstring", () => {
  assertTidy("documented", checkDocumented(sources));
});

test("documented: finds an export without one, and a list of exports", () => {
  const text =
    "/** One. */\nexport const a = 1;\n\nexport function b(): void {}\nexport { a as c };\n";
  const found = checkDocumented([createSourceFile("src/base/x.ts", text)]);
  assert.deepEqual(
    found.map((finding) => finding.line),
    [4, 5],
  );
});

test("documented: takes one docstring for all overloads", () => {
  const text = "/** One. */\nexport function a(x: 1): 1;\nexport function a(x: 2): 2;\n";
  assert.equal(checkDocumented([createSourceFile("src/base/x.ts", text)]).length, 0);
});

test("documented: takes one docstring for constants that follow each other", () => {
  const group = "/** Sizes. */\nexport const a = 1;\nexport const b = 2;\nexport const c = 3;\n";
  assert.equal(checkDocumented([createSourceFile("src/base/x.ts", group)]).length, 0);
  const apart = `${group}\nexport const d = 4;\nexport function e(): void {}\n`;
  assert.equal(checkDocumented([createSourceFile("src/base/x.ts", apart)]).length, 2);
});

test("doors: a property that is called process is not the process", () => {
  assert.equal(doorsAt("src/drivers/qemu/x.ts", "child.process.stdout; child.process.kill();"), 0);
  assert.equal(doorsAt("src/drivers/qemu/x.ts", "process.stdout; process.kill();"), 2);
});

test("doors: the last statement of a helper process's main file may take its arguments", () => {
  const main = "if (import.meta.main) await run(process.argv[2]);\n";
  assert.equal(doorsAt("src/drivers/qemu/x.ts", main), 0);
  const block = "if (import.meta.main) {\n  await run(process.argv[2]);\n}\n";
  assert.equal(doorsAt("src/drivers/qemu/x.ts", block), 0);
  assert.equal(doorsAt("src/drivers/qemu/x.ts", `${block}f();\n`), 1);
  assert.equal(doorsAt("src/drivers/qemu/x.ts", `const a = process.argv;\n${main}`), 1);
  assert.equal(doorsAt("src/drivers/qemu/x.ts", `${main}f();\n`), 1);
});

test("lint: the rules that bound functions are errors and hold for all product code", () => {
  const config = JSON.parse(readFileSync(join(repositoryRoot, ".oxlintrc.json"), "utf8")) as {
    rules: Record<string, unknown>;
    overrides: readonly { files: readonly string[]; rules: Record<string, unknown> }[];
  };
  const bounds: Record<string, unknown> = {
    "eslint/max-lines": ["error", { max: fileLinesMax }],
    "eslint/max-lines-per-function": ["error", { max: 70 }],
    "eslint/max-params": ["error", 4],
    "eslint/complexity": ["error", 15],
    "typescript/no-floating-promises": "error",
    "typescript/no-explicit-any": "error",
  };
  for (const [rule, setting] of Object.entries(bounds)) {
    assert.deepEqual(config.rules[rule], setting, rule);
  }
  const testsOnly = new Set(["**/*.test.ts", "test/**", "src/testing/**"]);
  for (const override of config.overrides) {
    const loosened = Object.keys(bounds).filter((rule) => rule in override.rules);
    const isTests = override.files.every((pattern) => testsOnly.has(pattern));
    assert.ok(isTests || loosened.length === 0, `${override.files.join()}: ${loosened.join()}`);
  }
});
