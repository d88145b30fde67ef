import assert from "node:assert/strict";
import { test } from "node:test";

import { assertTidy, type Finding } from "./findings.ts";
import { checkCycles, checkLayers, checkReExports } from "./import-rules.ts";
import { importsOf } from "./imports.ts";
import { createSourceFile, readTextFiles, toSourceFiles } from "./source-files.ts";

const sources = toSourceFiles(readTextFiles());

function layersOf(path: string, text: string): readonly Finding[] {
  return checkLayers([createSourceFile(path, text)]);
}

test("imports: finds every form over several lines and none in strings or comments", () => {
  const file = createSourceFile(
    "src/vault/a.ts",
    [
      'import type { A } from "#base/a.ts";',
      'import {\n  b,\n  type C,\n} from "./b.ts";',
      'import "node:fs";',
      'export { d } from "#formats/d.ts";',
      'const e = await import("./sub/e.ts");',
      'type F = import("./f.ts").F;',
      'new Worker(new URL("./workers/g.ts", import.meta.url));',
      'const text = \'import x from "#bin/x.ts"\'; // import y from "#bin/y.ts"',
      'const z = Array.from("abc"); export const from = "q";',
    ].join("\n"),
  );
  assert.deepEqual(
    importsOf(file).map((entry) => `${entry.kind} ${entry.target ?? entry.specifier}`),
    [
      "import src/base/a.ts",
      "import src/vault/b.ts",
      "import node:fs",
      "re-export src/formats/d.ts",
      "dynamic src/vault/sub/e.ts",
      "dynamic src/vault/f.ts",
      "url src/vault/workers/g.ts",
    ],
  );
});

test("layers: the sources keep to the table", () => {
  assertTidy("layers", checkLayers(sources));
});

test("layers: refuses an arrow that goes up, also for types", () => {
  const [found] = layersOf("src/vault/x.ts", 'import type { P } from "#protect/p.ts";');
  assert.match(found?.message ?? "", /"vault" may import base, formats, ports, not "protect"/);
  assert.equal(layersOf("src/protect/x.ts", 'import { v } from "#vault/v.ts";').length, 0);
});

test("layers: lets only bin, tests and the test kit import drivers", () => {
  const text = 'import { createStore } from "#drivers/store/store.ts";';
  assert.equal(layersOf("src/protect/x.ts", text).length, 1);
  assert.equal(layersOf("src/cli/x.ts", text).length, 1);
  assert.equal(layersOf("src/bin/x.ts", text).length, 0);
  assert.equal(layersOf("src/testing/x.ts", text).length, 0);
  assert.equal(layersOf("src/protect/x.test.ts", text).length, 0);
});

test("layers: keeps drivers apart but for the shared ones", () => {
  assert.equal(
    layersOf("src/drivers/qemu/x.ts", 'import { y } from "#drivers/nbd/y.ts";').length,
    0,
  );
  const [found] = layersOf("src/drivers/nbd/x.ts", 'import { y } from "#drivers/qemu/y.ts";');
  assert.match(found?.message ?? "", /driver "nbd" may not import driver "qemu"/);
});

test("layers: keeps subfolders of the vault and of drivers private", () => {
  const [found] = layersOf("src/protect/x.ts", 'import { y } from "#vault/index/y.ts";');
  assert.match(found?.message ?? "", /private to src\/vault\//);
  assert.equal(layersOf("src/vault/x.ts", 'import { y } from "./index/y.ts";').length, 0);
});

test("layers: refuses the test kit, tests and what lies outside src in product code", () => {
  for (const specifier of ["#testing/fake.ts", "./x.test.ts", "../../scripts/y.ts"]) {
    assert.equal(layersOf("src/base/x.ts", `import { y } from "${specifier}";`).length, 1);
  }
});

test("layers: wants # across folders and .ts at the end", () => {
  assert.equal(layersOf("src/vault/x.ts", 'import { y } from "../base/y.ts";').length, 1);
  assert.equal(layersOf("src/vault/x.ts", 'import { y } from "./y";').length, 1);
});

test("layers: lets packages in through their folders only", () => {
  assert.equal(layersOf("src/vault/x.ts", 'import { C } from "commander";').length, 1);
  assert.equal(layersOf("src/cli/x.ts", 'import { C } from "commander";').length, 0);
  assert.equal(layersOf("src/base/x.ts", 'import fc from "fast-check";').length, 1);
});

test("cycles: there are none", () => {
  assertTidy("cycles", checkCycles(sources));
});

test("cycles: finds one through types, once", () => {
  const found = checkCycles([
    createSourceFile("src/vault/a.ts", 'import type { B } from "./b.ts";'),
    createSourceFile("src/vault/b.ts", 'import { c } from "./c.ts";'),
    createSourceFile("src/vault/c.ts", 'import { a } from "#vault/a.ts";'),
  ]);
  assert.equal(found.length, 1);
  assert.match(
    found[0]?.message ?? "",
    /a\.ts → src\/vault\/b\.ts → src\/vault\/c\.ts → src\/vault\/a/,
  );
});

test("re-exports: there are none", () => {
  assertTidy("re-exports", checkReExports(sources));
});

test("re-exports: finds a list and a star", () => {
  const text =
    'export { a } from "./a.ts";\nexport * from "./b.ts";\nexport type { C } from "./c.ts";';
  assert.equal(checkReExports([createSourceFile("src/base/x.ts", text)]).length, 3);
});
