/** Backups of a Windows guest whose agent is played by a program, on a real VM of QEMU. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "src/drivers/guest/windows/plan-vss.test.ts",
  "src/drivers/guest/windows/vss-writers.test.ts",
  "test/vm/windows-guest.test.ts",
];

/** No Windows runs: the guest's answers are simulated, and the extension's PowerShell is not executed. */
export const evidence: Evidence = {
  name: "windows-simulated",
  claim:
    "simulated: a point of a Windows guest is application-consistent exactly where VSS held writes and all writers succeeded, and the guest goes on whoever dies",
  bar: "every case passes, those that wait included",
  run: async (context) => {
    const run = await runTestFiles(files, context, { KLUIS_LONG: "1" });
    return toOutcome(run, "a scripted Windows agent on a VM of QEMU; no Windows, no PowerShell");
  },
};
