/** The protocol of leases and collections in seeded schedules, whole and with rules broken. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = ["test/model/gc-simulation.test.ts"];

/** `KLUIS_LONG=1` runs millions of schedules. */
export const evidence: Evidence = {
  name: "gc-simulation",
  claim:
    "no order of backups, deletions and collections, stopped or killed anywhere, loses a point",
  bar: "100,000 schedules lose nothing, and each rule of the protocol that is broken is found out",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const broken = run.lines.filter((line) => /^[a-z-]+: .*, (?:after|in a schedule)/.test(line));
    const covered = run.lines.filter((line) => /schedules,/.test(line)).join("; ");
    return toOutcome(run, `${covered}; ${broken.length} rules broken, each found out`);
  },
};
