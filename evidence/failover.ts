/** The real CLI with two stores: follow, lag, restore from the second, take over, copy, heal. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/e2e/cli-copy.test.ts"];

/** See the test for what is done in which order. */
export const evidence: Evidence = {
  name: "failover",
  claim: "a secondary restores without the primary and takes over; rescue copy needs one key alone",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, "the real CLI as a process");
  },
};
