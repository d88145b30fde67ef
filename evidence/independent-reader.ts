/** Restores with a reader that was written from the format's page alone. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/property/independent-reader.test.ts"];

/** `KLUIS_LONG=1` makes it run more rounds. */
export const evidence: Evidence = {
  name: "independent-reader",
  claim: "a small reader written from vault-format.md alone restores every disk byte for byte",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, "random disks, in full, by exact changes and by checksums, resized");
  },
};
