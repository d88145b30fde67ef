/** What increments, listings and pruning cost with 1, 100 and 3,000 recovery points (`--most=N`). */
import { measureCollection } from "../bench/collection.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";

const mostByDefault = 3000;
/** An increment may take so much longer with the most points than with one. */
const growthMost = 1.5;
const listMsMost = 1000;

/** A vault does not slow down as it fills. */
export const evidence: Evidence = {
  name: "point-count",
  claim:
    "increments cost the same whatever the number of recovery points; listing and pruning stay fast",
  bar: "increment ≤ 1.5 × that of the first points; listing and pruning plan ≤ 1 s with the most",
  run: async (context) => {
    const most = Number(context.options["most"] ?? mostByDefault);
    const { costs } = await measureCollection(context.scratch, [1, 100, most]);
    const [first, last] = [costs[0], costs.at(-1)];
    if (first === undefined || last === undefined) throw new Error("nothing was measured");
    const text = costs.map(
      ({ points, incrementMs, listMs, pruneMs }) =>
        `${points} points: increment ${Math.round(incrementMs)} ms, list ${listMs.toFixed(1)} ms, ` +
        `prune ${pruneMs.toFixed(1)} ms`,
    );
    return {
      figure: text.join("; "),
      holds:
        last.incrementMs <= first.incrementMs * growthMost &&
        Math.max(last.listMs, last.pruneMs) <= listMsMost,
    };
  },
};
