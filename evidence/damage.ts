/** Flips, cuts, lengthens, swaps and removes objects of a vault. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/faults/vault-damage.test.ts"];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "damage",
  claim: "damage to any object is found and named, and never read as data",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(
      run,
      run.lines.filter((line) => /^\d+ .*(flip|damage|object)/.test(line)).join("; "),
    );
  },
};
