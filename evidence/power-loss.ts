/** Takes from the file store whatever no fsync covered. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "test/faults/file-store-simulated.test.ts",
  "test/faults/vault-power-loss.test.ts",
  "test/faults/file-store-power-loss.test.ts",
];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "power-loss",
  claim: "no power loss, full file system or failed fsync takes what the file store has promised",
  bar: "every case passes, and each fsync that is left out shows",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, run.lines.filter((line) => /^\d+ .*power loss/.test(line)).join("; "));
  },
};
