/** Marks a map of 2 million windows (512 GiB); `--windows=N` for another size. */
import { measureMarking } from "../bench/marking.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";

const windowsByDefault = 2_000_000;
const perSecondLeast = 1_000_000;

/** So that a collection's time is that of its copies. */
export const evidence: Evidence = {
  name: "mark-rate",
  claim: "a collection follows references fast",
  bar: "≥ 1 M references/s",
  run: async (context) => {
    const figures = await measureMarking(Number(context.options["windows"] ?? windowsByDefault));
    const { references, nodes, ms, perSecond } = figures;
    const rate = (perSecond / 1e6).toFixed(2);
    return {
      figure: `${rate} M references/s: ${references} in ${nodes} nodes, ${Math.round(ms)} ms`,
      holds: perSecond >= perSecondLeast,
    };
  },
};
