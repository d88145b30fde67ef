/** Cuts the log of a sequence of backups at every event. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/faults/vault-crash-cuts.test.ts"];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "crash-cuts",
  claim: "whatever moment a writer dies at, every committed recovery point restores",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, run.lines.filter((line) => /cuts left/.test(line)).join("; "));
  },
};
