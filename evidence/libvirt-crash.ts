/** Kills libvirtd at every write of XML in a snapshot and at random moments, and starts the VM again. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles } from "../tools/evidence/test-run.ts";

const files = ["test/vm/libvirt-crash.test.ts"];

/** Always the long run of the tests, which goes through every write. */
export const evidence: Evidence = {
  name: "libvirt-crash",
  claim:
    "a VM that is started again after libvirtd died at a write of its XML has every acknowledged write",
  bar: "each write of XML in a snapshot and ≥ 60 random moments, no write lost",
  run: async (context) => {
    const run = await runTestFiles(files, context, { KLUIS_LONG: "1" });
    const countOf = (pattern: RegExp): number =>
      run.lines.filter((line) => pattern.test(line)).length;
    const writes = countOf(/^write of XML to /);
    const moments = countOf(/^(?:created|attached|frozen|taken) \+ \d+ ms: /);
    const all = (count: number): string => `${String(count)} of ${String(count)}`;
    const isWhole =
      moments >= 60 && run.lines.includes(`libvirtd was killed at ${all(writes)} writes of XML`);
    return {
      figure: `killed at ${all(writes)} writes of XML that a snapshot has and ${moments} random moments; ${run.passed} tests passed, ${run.failed} failed`,
      holds: run.failed === 0 && run.passed > 0 && isWhole,
    };
  },
};
