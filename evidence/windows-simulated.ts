/** Backups of a Windows guest whose agent is played by a program, on real VMs. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "src/drivers/guest/windows/plan-vss.test.ts",
  "src/drivers/guest/windows/vss-writers.test.ts",
  "test/integration/windows-round.test.ts",
  "test/vm/windows-guest.test.ts",
  "test/vm/windows-libvirt.test.ts",
];

/** Fewer would mean that some were left out. */
const casesLeast = 40;
/** Cases in which somebody is killed or stopped, or is too slow for libvirt, each of which says how long the guest was frozen then. */
const faults = 8;

/** No Windows runs: the guest's answers are simulated, and the extension's PowerShell is not executed. */
export const evidence: Evidence = {
  name: "windows-simulated",
  claim:
    "simulated: a point of a Windows guest is application-consistent exactly where VSS held writes and all writers succeeded; where Kluis or its guard is killed or stopped while VSS holds writes, or killed while the writers prepare, the other one thaws",
  bar: `every case passes, those that wait included, and there are ≥ ${casesLeast}`,
  run: async (context) => {
    const run = await runTestFiles(files, context, { KLUIS_LONG: "1" });
    const times = run.lines.filter((line) => /^thawed \d+ ms after /.test(line));
    const figure = `${times.join(", ")}; a scripted Windows agent on VMs of QEMU and of libvirt; no Windows, no PowerShell`;
    const { holds, ...outcome } = toOutcome(run, figure);
    return { ...outcome, holds: holds && run.passed >= casesLeast && times.length === faults };
  },
};
