/** Feeds hostile bytes to every parser of the store. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/property/fuzz-parsers.test.ts"];

/** The test says how many inputs it made; `KLUIS_LONG=1` makes a million for each parser. */
export const evidence: Evidence = {
  name: "fuzz",
  claim: "every parser ends every input with a value or a typed error, in bounded time and memory",
  bar: "every input; no parser without a fuzzer",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const counts = run.lines.flatMap((line) => /: (\d+) inputs, \d+ taken/.exec(line)?.[1] ?? []);
    const each = Math.min(...counts.map(Number));
    return toOutcome(run, `${counts.length} fuzzers, ${each} inputs each`);
  },
};
