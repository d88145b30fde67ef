/** Restores with the store and the recovery key alone. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/e2e/cli-rescue.test.ts", "test/e2e/cli-image.test.ts"];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "rescue",
  claim: "a store and one key are all that listing, verifying and restoring needs",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, "the real CLI as a process");
  },
};
