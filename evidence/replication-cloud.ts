/** The real CLI with a second store in a cloud, or a first one: killed, through faults, taking over. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/integration/cloud-copies.test.ts"];

/** See the test for what is done in which order; `KLUIS_LONG=1` kills at more places. */
export const evidence: Evidence = {
  name: "replication-cloud",
  claim:
    "a vault in a folder follows to S3 (radosgw) and to Azure Blob (Azurite), and one on S3 to a folder, through " +
    "kills, errors and stale listings; the second store restores alone, is checked without a key, is healed, " +
    "heals and takes over",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, run.lines.filter((line) => /kills, \d+ requests/.test(line)).join("; "));
  },
};
