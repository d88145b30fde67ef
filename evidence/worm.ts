/** Attacks vaults in a bucket with object lock with the credentials of their writer, and rescues them. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "src/formats/lock-policy.test.ts",
  "src/vault/locks/plan-extensions.test.ts",
  "src/drivers/store/memory-worm-store.test.ts",
  "test/faults/worm-crash-cuts.test.ts",
  "test/model/worm-life.test.ts",
  "test/integration/worm-store.test.ts",
  "test/integration/worm-vault.test.ts",
  "test/integration/worm-cli.test.ts",
];

/** The tests say how many versions were attacked and crashes were cut. */
export const evidence: Evidence = {
  name: "worm",
  claim:
    "in radosgw's COMPLIANCE mode every recovery point lists, verifies and restores after the holder of the " +
    "writer's credentials has hidden, overwritten and tried to remove and unlock every object, and forged, " +
    "wiped or removed the control place; deletions are refused while locked; what has expired is freed; " +
    "Azure, folders and buckets without object lock are refused",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const said = run.lines.filter((line) => /^WORM .*\d/.test(line));
    return toOutcome(run, said.filter((line) => !/\(\d.*ms\)$/.test(line)).join("; "));
  },
};
