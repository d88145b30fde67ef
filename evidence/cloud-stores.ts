/** Runs the S3 and Azure drivers against real servers, with faults on the way and from end to end. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/integration/s3-store.test.ts", "test/integration/azure-store.test.ts"];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "cloud-stores",
  claim:
    "S3 (radosgw) and Azure Blob (Azurite) pass the store suite, get over errors, time-outs, lost " +
    "answers and stale listings, and hold a vault; a bucket that cannot commit is refused",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const said = run.lines.filter((line) => /^(S3|Azure) store.*\d/.test(line));
    return toOutcome(run, said.filter((line) => !/\(\d.*ms\)$/.test(line)).join("; "));
  },
};
