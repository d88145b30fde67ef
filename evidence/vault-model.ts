/** Compares a vault with a model in memory over random rounds. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/model/vault-model.test.ts"];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "vault-model",
  claim: "every recovery point reads back exactly as the disk was",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, run.lines.filter((line) => line.startsWith("seed")).join("; "));
  },
};
