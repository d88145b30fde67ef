import assert from "node:assert/strict";
import { test } from "node:test";

import { errorRegistry } from "#base/error-codes.ts";

import { referencePages } from "../reference/pages.ts";
import {
  anchorsOf,
  checkGlossary,
  checkLinks,
  codesNotRaised,
  expectedLayerRows,
  layerRowsOf,
} from "./doc-rules.ts";
import { codesWithoutSource } from "./exceptions.ts";
import { assertTidy } from "./findings.ts";
import { createSourceFile, readTextFiles, toSourceFiles } from "./source-files.ts";

const texts = readTextFiles();
const sources = toSourceFiles(texts);

function textOf(path: string): string {
  const file = texts.find((candidate) => candidate.path === path);
  assert.ok(file !== undefined, `${path} is missing`);
  return file.text;
}

test("architecture: its table of layers is the one that is enforced", () => {
  assert.deepEqual(layerRowsOf(textOf("ARCHITECTURE.md")), expectedLayerRows());
});

test("architecture: every folder of src is a layer or the test kit", () => {
  const folders = new Set(
    sources.filter((file) => file.path.startsWith("src/")).map((file) => file.path.split("/")[1]),
  );
  const known = ["testing", ...expectedLayerRows().map((row) => /src\/(\w+)/.exec(row)?.[1])];
  assert.deepEqual(
    [...folders].filter((folder) => !known.includes(folder)),
    [],
  );
});

test("reference: every page is what scripts/reference.ts writes", () => {
  for (const page of referencePages()) {
    assert.ok(textOf(page.path) === page.text, `${page.path} is not; run npm run reference`);
  }
});

test("errors: every code of the registry is raised by product code", (t) => {
  const missing = codesNotRaised(sources);
  const unexplained = missing.filter((code) => !(code in codesWithoutSource));
  assert.deepEqual(unexplained, [], "remove these codes, or raise them");
  for (const code of Object.keys(codesWithoutSource)) {
    assert.ok(code in errorRegistry, `codesWithoutSource names "${code}", which is no code`);
    if (!missing.includes(code)) t.diagnostic(`codesWithoutSource: "${code}" is raised now`);
  }
});

test("errors: a code in a comment or in the registry does not count as raised", () => {
  const registry = createSourceFile("src/base/error-codes.ts", 'const a = ["Busy"];');
  const comment = createSourceFile("src/base/x.ts", '// "Busy"');
  assert.ok(codesNotRaised([registry, comment]).includes("Busy"));
  const raise = createSourceFile("src/base/x.ts", 'throw new KluisError("Busy", "Cannot");');
  assert.ok(!codesNotRaised([registry, raise]).includes("Busy"));
});

test("links: every link between pages leads somewhere", () => {
  assertTidy("links", checkLinks(texts, sources));
});

test("links: finds a missing page, a missing heading and a missing page in a source", () => {
  const page = {
    path: "docs/a.md",
    text: "[b](b.md) [c](c.md#d-e) [x](https://x.example) `[q](q)`\n",
  };
  const other = { path: "docs/c.md", text: "# D F\n" };
  const source = createSourceFile("src/base/x.ts", ["// docs", "z.md"].join("/"));
  const found = checkLinks([page, other], [source]).map((finding) => finding.message);
  assert.match(found[0] ?? "", /"docs\/b\.md", which is not there/);
  assert.match(found[1] ?? "", /no such heading/);
  assert.match(found.at(-1) ?? "", /z\.md/);
});

test("links: makes anchors as Markdown hosts do", () => {
  assert.ok(anchorsOf("## 3. Writing, in order\n").has("3-writing-in-order"));
});

test("glossary: explains every word of the list", () => {
  assertTidy(
    "glossary",
    checkGlossary({ path: "docs/glossary.md", text: textOf("docs/glossary.md") }),
  );
});

test("glossary: finds a word that is missing or explained twice", () => {
  const found = checkGlossary({ path: "docs/glossary.md", text: "**vault** a.\n**vault** b.\n" });
  assert.ok(found.some((finding) => finding.message.includes('"vault"')));
  assert.ok(found.some((finding) => finding.message.includes('"pack"')));
});
