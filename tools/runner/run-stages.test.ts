import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import type { RunResult } from "./run-stages.ts";

const good = 'import { test } from "node:test"; test("a: passes", () => {});';
const bad = 'import { test } from "node:test"; test("b: fails", () => { throw new Error("x"); });';
const off = 'import { test } from "node:test"; test.skip("c: is off", () => {});';
const open =
  'import { test } from "node:test"; test("d: passes", () => {}); setInterval(() => {}, 1_000);';
const none = "export const nothing = 1;";

/** What the process of {@link runTexts} prints. */
interface Outcome {
  readonly isGood: boolean;
  readonly result: RunResult;
  readonly closing: readonly string[];
  readonly eventTypes: readonly string[];
}

/** Node refuses to run tests within tests, so the run has a process of its own. */
const program = `
  const [module, root, files, fileTimeoutMs] = process.argv.slice(2);
  const { StagedRun } = await import(module);
  const stages = JSON.parse(files).map((file) => ({ files: [file], concurrency: 1 }));
  const signal = new AbortController().signal;
  const run = new StagedRun({ root, stages, fileTimeoutMs: Number(fileTimeoutMs), signal });
  const eventTypes = [];
  for await (const event of run.events()) eventTypes.push(event.type);
  const closing = [...run.closing()].map((event) => event.data.message);
  console.log(JSON.stringify({ isGood: run.isGood, result: run.result, closing, eventTypes }));
`;

/** Runs each text as the one file of a stage of its own. */
async function runTexts(texts: readonly string[], fileTimeoutMs = 60_000): Promise<Outcome> {
  const root = await mkdtemp(join(tmpdir(), "kluis-runner-"));
  try {
    const files = texts.map((_, index) => `f${index}.test.mjs`);
    await Promise.all(files.map((file, index) => writeFile(join(root, file), texts[index] ?? "")));
    const main = join(root, "main.mjs");
    await writeFile(main, program);
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const module = new URL("run-stages.ts", import.meta.url).href;
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [main, module, root, JSON.stringify(files), String(fileTimeoutMs)],
      { env },
    );
    return JSON.parse(stdout) as Outcome;
  } finally {
    await rm(root, { recursive: true });
  }
}

test("staged run: adds the summaries of its stages up to one", async () => {
  const { isGood, result, closing, eventTypes } = await runTexts([good, good]);
  assert.equal(isGood, true);
  assert.equal(result.counts.pass, 2);
  assert.equal(result.fileTimes.length, 2);
  assert.match(closing[0] ?? "", /^slow file .* f\d\.test\.mjs$/);
  assert.deepEqual(closing.slice(2, 5), ["tests 2", "suites 0", "pass 2"]);
  assert.match(closing.at(-1) ?? "", /^duration_ms \d+$/);
  assert.ok(!eventTypes.includes("test:diagnostic"));
});

test("staged run: is not good when a test fails, is switched off or was never written", async () => {
  for (const text of [bad, off, none]) {
    const { isGood } = await runTexts([good, text]);
    assert.equal(isGood, false, text);
  }
});

test("staged run: ends a file that holds something open after its tests, and is not good", async () => {
  const { isGood, closing } = await runTexts([good, open], 3_000);
  assert.equal(isGood, false);
  assert.ok(closing.includes("cancelled 1"), closing.join("; "));
});

test("staged run: names files without tests", async () => {
  const { closing } = await runTexts([none]);
  assert.ok(closing.includes("no test in f0.test.mjs"));
});

test("staged run: is not good when nothing ran", async () => {
  const { isGood } = await runTexts([]);
  assert.equal(isGood, false);
});
