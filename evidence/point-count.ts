/**
 * What increments, listings and pruning cost with 1, 100 and 3,000 recovery points, of a vault that is
 * collected every 200 backups; `--most=N` for a try.
 */
import { measurePointCounts } from "../bench/collection.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";

const wholeMost = 3000;
/** An increment may take so much longer with the most points than with one. */
const growthMost = 1.5;
const listMsMost = 1000;

/** A vault does not slow down as it fills. */
export const evidence: Evidence = {
  name: "point-count",
  claim:
    "increments cost the same whatever the number of recovery points; listing and pruning stay fast",
  bar: "increment ≤ 1.5 × that of the first points, before and after a collection; listing and pruning plan ≤ 1 s with the most",
  run: async (context) => {
    const most = Number(context.options["most"] ?? wholeMost);
    const counts = [1, 100, most];
    const costs = await measurePointCounts(context.scratch, counts, (line) => {
      context.log(line);
    });
    const [first, last] = [costs[0], costs.at(-1)];
    if (first === undefined || last === undefined) throw new Error("nothing was measured");
    const text = costs.map(
      ({ points, incrementMs, collectedMs, listMs, pruneMs, collectMs }) =>
        `${points} points: increment ${Math.round(incrementMs)} ms (collected ${Math.round(collectedMs)}), ` +
        `list ${listMs.toFixed(1)} ms, prune ${pruneMs.toFixed(1)} ms, collect ${Math.round(collectMs)} ms`,
    );
    const incrementMs = Math.max(last.incrementMs, last.collectedMs);
    return {
      figure: text.join("; "),
      holds:
        incrementMs <= first.incrementMs * growthMost &&
        Math.max(last.listMs, last.pruneMs) <= listMsMost,
      ...(most === wholeMost ? {} : { isPartial: true }),
    };
  },
};
