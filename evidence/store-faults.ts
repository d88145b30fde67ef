/** Makes the store fail, lose answers and run full at every step. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "test/faults/vault-store-faults.test.ts",
  "test/faults/file-store-kill.test.ts",
  "test/faults/file-store-power-loss.test.ts",
  "test/faults/file-store-limits.test.ts",
  "test/faults/file-store-race.test.ts",
];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "store-faults",
  claim: "a store that fails never makes a backup lie, hang or lose a committed point",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, run.lines.filter((line) => /kills|lost/.test(line)).join("; "));
  },
};
