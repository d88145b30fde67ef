/** Runs the NBD client against qemu-nbd, nbdkit, QEMU and hostile servers. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "test/integration/nbd-servers.test.ts",
  "test/integration/nbd-hostile.test.ts",
  "test/integration/disk-drivers.test.ts",
  "test/integration/disk-changes.test.ts",
];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "nbd",
  claim: "the NBD client reads right, reconnects, and survives hostile servers",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, "against qemu-nbd, nbdkit and QEMU");
  },
};
