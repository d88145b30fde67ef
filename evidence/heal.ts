/** Damages every object of a vault, replicates it, and heals it from its other copy. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/faults/copy-damage.test.ts", "test/faults/copy-keys.test.ts"];

/** The tests say how many cases they ran. */
export const evidence: Evidence = {
  name: "heal",
  claim: "damage does not travel to the secondary, and either copy is healed from the other",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const counts = /^\d+ (?:kinds of damage|objects healed|healings)\b/;
    return toOutcome(run, run.lines.filter((line) => counts.test(line)).join("; "));
  },
};
