/** Cuts, fails and races changes of a vault's keys. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "test/faults/vault-key-cuts.test.ts",
  "test/faults/vault-key-races.test.ts",
  "src/vault/key-changes.test.ts",
];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "key-rotation",
  claim:
    "whatever moment a change of keys is cut off at, and whoever races it: acknowledged keys open, removed ones do not, every point restores",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const figures = run.lines.filter((line) => /cuts left|calls failed|schedules of/.test(line));
    return toOutcome(run, figures.join("; "));
  },
};
