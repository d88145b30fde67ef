/** Times all tests, real VMs and all, on a fresh machine once all is set up there. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { readOrRunFresh } from "../tools/evidence/fresh-commands.ts";

const minutesMost = 25;

/** Shares the run of two-commands where that was of the same commit. */
export const evidence: Evidence = {
  name: "test-time",
  claim: "all tests, with real VMs, take less time than a lunch",
  bar: `pass in ≤ ${minutesMost} minutes`,
  run: async (context) => {
    const { isGood, durationMs, summary } = await readOrRunFresh("test", context);
    const testsMs = summary["duration_ms"] ?? Infinity;
    const minutes = (ms: number): string => (ms / 60_000).toFixed(1);
    const figure =
      `${summary["pass"] ?? 0} of ${summary["tests"] ?? 0} tests passed in ${minutes(testsMs)} minutes, ` +
      `after ${minutes(durationMs - testsMs)} of set-up on a fresh machine`;
    return { figure, holds: isGood && testsMs <= minutesMost * 60_000 };
  },
};
