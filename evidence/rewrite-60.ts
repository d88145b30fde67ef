/** Makes 60 increments of workload P and restores the first and the newest point, in turns. */
import { measureIncrements } from "../bench/increments.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { roundUp, toSeconds } from "../tools/evidence/peer-bar.ts";

const meanMost = 1.5;
const worstMost = 2.5;
const restoreMost = 1.5;
const wholeIncrements = 60;

/**
 * The real engine on files; growth of the whole store counts, and the newest point is compared byte
 * for byte. Options for a try: `--scale=N`, `--increments=N`, `--rounds=N`.
 */
export const evidence: Evidence = {
  name: "rewrite-60",
  claim: "increments keep a disk from falling to pieces, and store little more than what changed",
  bar: `stored / changed ≤ ${meanMost} on average, ≤ ${worstMost} in the worst; newest restores ≤ ${restoreMost} × as long as the first`,
  run: async (context) => {
    const { scale = "1", increments = String(wholeIncrements), rounds = "3" } = context.options;
    const isTry = Object.keys(context.options).length > 0;
    const figures = await measureIncrements(
      { scale: Number(scale), increments: Number(increments), rounds: Number(rounds) },
      context,
    );
    const { storedMean, storedWorst, restoreRatio, restoreFirstMs, restoreNewestMs } = figures;
    return {
      figure:
        `stored / changed ${roundUp(storedMean)} on average, ${roundUp(storedWorst)} in the worst; ` +
        `restore ${roundUp(restoreRatio)} × (${toSeconds(restoreFirstMs)}, ${toSeconds(restoreNewestMs)})`,
      holds: storedMean <= meanMost && storedWorst <= worstMost && restoreRatio <= restoreMost,
      ...(isTry ? { isPartial: true } : {}),
    };
  },
};
