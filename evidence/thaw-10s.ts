/**
 * Kills and stops every party of a freeze and of the scripts around it, and measures in the guest how
 * long writes waited.
 */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles } from "../tools/evidence/test-run.ts";

const files = ["test/vm/qemu-freeze-safety.test.ts", "test/vm/script-safety.test.ts"];
const secondsMost = 10;

/** The time is that of the guest's own writer, between two writes that it was told are durable. */
export const evidence: Evidence = {
  name: "thaw-10s",
  claim:
    "whoever dies or stops while a guest is frozen or its application at rest, it writes again within 10 s",
  bar: `≤ ${secondsMost} s in every case`,
  run: async (context) => {
    const run = await runTestFiles(files, context);
    const waits = run.lines.flatMap((line) => {
      const found = /the (?:guest|application) waited ([\d.]+) s at most/.exec(line)?.[1];
      return found === undefined ? [] : [Number(found)];
    });
    const longest = Math.max(...waits);
    const holds = run.failed === 0 && waits.length > 0 && longest <= secondsMost;
    const figure = `longest wait ${longest.toFixed(2)} s in ${waits.length} cases; ${run.passed} tests passed, ${run.failed} failed`;
    return { figure, holds };
  },
};
