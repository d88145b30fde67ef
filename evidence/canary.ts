/** Looks for texts of a guest, of names and of keys outside of the seal. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

/** The same scan over the store with its seals taken off must find the texts, or the test fails. */
export const evidence: Evidence = {
  name: "canary",
  claim:
    "content, names and keys are in no object, name, cache or temporary file, output or argument list",
  bar: "0 hits; hits for every text without encryption",
  run: async (context) => {
    const run = await runTestFiles(["test/e2e/cli-canary.test.ts"], context);
    return toOutcome(run, run.lines.filter((line) => /0 hits/.test(line)).join("; "));
  },
};
