/** Kills and stops real processes at random moments. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "test/faults/cli-kill.test.ts",
  "test/faults/file-store-kill.test.ts",
  "test/faults/vault-many-writers.test.ts",
];

/** The tests say how many processes they killed; `KLUIS_LONG=1` makes them kill more. */
export const evidence: Evidence = {
  name: "kill",
  claim:
    "a backup or restore that is killed or stopped at any moment loses nothing that was acknowledged",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const said = run.lines.filter((line) => /^\d+ .*(kill|stopped)/.test(line));
    return toOutcome(run, said.join("; "));
  },
};
