/** Gives the CLI everything the issue calls bad input. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "test/e2e/cli-bad-input.test.ts",
  "test/e2e/cli-cancel.test.ts",
  "test/e2e/cli-help.test.ts",
];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "bad-input",
  claim: "bad input gets a code, an exit code and what to do, and nothing is lost",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, "the real CLI as a process");
  },
};
