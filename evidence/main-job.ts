/** Backs a real VM up, changes it, backs it up again, restores it and boots it. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/vm/backup-vm.test.ts"];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "main-job",
  claim: "a real VM is backed up, restored byte for byte, and boots",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, "real QEMU, guest agent and CLI layers");
  },
};
