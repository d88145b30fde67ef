// Goal: no bytes, however hostile, make a parser do anything but return or raise one of the errors it
// may raise, within bounded time and memory; and of formats with one encoding it takes no other.
// Method: structure-aware mutation of what a real vault holds (test/property/fuzz), and a check that
// no exported parser is without a fuzzer. KLUIS_LONG=1 takes a million inputs for each.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { bytesEqual } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { readCorpus } from "./fuzz/corpus.ts";
import { mutate } from "./fuzz/mutate.ts";
import { type Fuzzer, storeParsers } from "./fuzz/parsers.ts";
import { wireParsers } from "./fuzz/wire-parsers.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const inputsEach = isLong ? 1_000_000 : 10_000;
/** No input may take longer, on a machine that does much else. */
const inputMsMax = 1000;
/** What the inputs of one fuzzer may add to the largest memory of the process. */
const memoryMiBMax = 256;
/** Node keeps what a decompression that failed had taken, up to a megabyte, for the rest of the turn. */
const inputsPerTurn = 16;
const fuzzers = [...storeParsers, ...wireParsers];
const corpus = await readCorpus();

/** Exported functions that look like parsers and read nothing hostile, and why. */
const noParsers: Readonly<Record<string, string>> = {
  parseHead: "reads a page of the local cache whose checksum was checked",
};

/** One input: whether it was taken. Throws where it ends in any way that it must not. */
function tryInput(fuzzer: Fuzzer, bytes: Uint8Array): boolean {
  const before = bytes.slice();
  try {
    const encoding = fuzzer.parse(bytes, corpus);
    assert.ok(encoding === undefined || bytesEqual(encoding, before), "it has another encoding");
    return true;
  } catch (error) {
    if (isKluisError(error) && fuzzer.errors.includes(error.code)) return false;
    const shown = Buffer.from(before.subarray(0, 400)).toString("hex");
    throw new Error(`${fuzzer.name} failed on ${before.byteLength} bytes ${shown}`, {
      cause: error,
    });
  }
}

/** What one fuzzer went through. */
async function fuzz(
  fuzzer: Fuzzer,
): Promise<{ readonly taken: number; readonly longestMs: number }> {
  const others = fuzzer.inputs(corpus);
  assert.ok(others.length > 0, `${fuzzer.name} has valid inputs`);
  for (const input of others) assert.ok(tryInput(fuzzer, input), `${fuzzer.name} takes its own`);
  const prng = createPrng(testSeed());
  const options = { others, isText: fuzzer.isText === true };
  let taken = 0;
  let longestMs = 0;
  for (let inputs = 0; inputs < inputsEach; inputs++) {
    const input = others[prng.below(others.length)] ?? new Uint8Array(0);
    const bytes = mutate(input, prng, options);
    const start = performance.now();
    if (tryInput(fuzzer, bytes)) taken++;
    longestMs = Math.max(longestMs, performance.now() - start);
    if (inputs % inputsPerTurn === 0) await new Promise(setImmediate);
  }
  return { taken, longestMs };
}

for (const fuzzer of fuzzers) {
  test(`fuzz: every input of ${fuzzer.name} ends with a value or a typed error, soon and in little memory`, async () => {
    const baseMiB = process.resourceUsage().maxRSS / 1024;
    // Traces of errors that are expected cost more than the parsers.
    Error.stackTraceLimit = 0;
    const { taken, longestMs } = await fuzz(fuzzer);
    const grownMiB = Math.round(process.resourceUsage().maxRSS / 1024 - baseMiB);
    const figures = `${taken} taken, longest ${longestMs.toFixed(0)} ms, ${grownMiB} MiB`;
    console.log(`${fuzzer.name}: ${inputsEach} inputs, ${figures}`);
    assert.ok(longestMs < inputMsMax, `${longestMs} ms for one input`);
    assert.ok(grownMiB < memoryMiBMax, `memory grew by ${grownMiB} MiB`);
  });
}

/** Names of exported functions below `folder` that parse or decode. */
function exportedParsers(folder: string): readonly string[] {
  const root = join(import.meta.dirname, "../..", folder);
  return readdirSync(root, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ts") && !path.endsWith(".test.ts"))
    .flatMap((path) => [
      ...readFileSync(join(root, path), "utf8").matchAll(
        /^export (?:async )?function\*? (parse\w+|open\w*(?:Container|Frame))\b/gm,
      ),
    ])
    .map(([, name = ""]) => name);
}

test("fuzz: no parser of the formats or of the vault is without a fuzzer", () => {
  const found = [...exportedParsers("src/formats"), ...exportedParsers("src/vault")];
  const covered = new Set(fuzzers.flatMap(({ covers }) => covers));
  const without = found.filter((name) => !covered.has(name) && noParsers[name] === undefined);
  assert.deepEqual(without, [], "add them to test/property/fuzz/parsers.ts");
  const stale = Object.keys(noParsers).filter((name) => !found.includes(name));
  assert.deepEqual(stale, [], "these exceptions are not needed any more");
  assert.ok(found.length > 25);
});
