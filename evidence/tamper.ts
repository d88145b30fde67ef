/** Changes, cuts, lengthens, swaps, removes and replays objects of a small vault. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/faults/vault-tamper.test.ts"];
const counted = /^(flips|cuts|additions|swaps|removals|replays): /;

/** The test says how many cases it ran; `KLUIS_LONG=1` makes it run more. */
export const evidence: Evidence = {
  name: "tamper",
  claim:
    "whatever is done to an object of a vault is found and the object named, without a key where the design says so, a replay by the host that saw more",
  bar: "every byte, every length, every swap, removal and replay",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, run.lines.filter((line) => counted.test(line)).join("; "));
  },
};
