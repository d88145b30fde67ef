/** Collections cut at every operation on the store, and real processes that are killed and stopped. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/faults/gc-crash-cuts.test.ts", "test/faults/gc-processes.test.ts"];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "gc-faults",
  claim: "collections beside backups, killed or stopped anywhere, lose nothing that was committed",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const said = run.lines.filter((line) => /different stores|points restored/.test(line));
    return toOutcome(run, said.join("; "));
  },
};
