/** Cuts, faults and collections while a vault is copied to a second store. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "test/faults/copy-crash-cuts.test.ts",
  "test/faults/copy-collected.test.ts",
  "test/faults/copy-store-faults.test.ts",
  "test/faults/copy-inventory.test.ts",
];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "replication",
  claim:
    "every point whose manifest got to the secondary restores, whatever breaks a copy off, and what the " +
    "secondary misses shows without a key",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const counts = /^\d+ (?:crashes|collections|backups|faults|cases)\b/;
    return toOutcome(run, run.lines.filter((line) => counts.test(line)).join("; "));
  },
};
