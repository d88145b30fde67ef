/** Kills QEMU, the agent and Kluis at every step of a snapshot, and starts the VM again. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/vm/qemu-crash.test.ts", "test/vm/qemu-hypervisor.test.ts"];

/** The tests say how many cases they ran; `KLUIS_LONG=1` makes them run more. */
export const evidence: Evidence = {
  name: "vm-crash",
  claim: "a VM restarted at any moment boots the newest layer and loses no acknowledged write",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, "acknowledged writes checked in each");
  },
};
