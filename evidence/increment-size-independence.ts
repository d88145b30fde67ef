/** Times the same increment on a disk of 4 GiB and on a sparse one of 4 TiB, in turns. */
import { measureDiskSizes } from "../bench/disk-size.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { roundUp } from "../tools/evidence/peer-bar.ts";

const most = 1.3;
const wholeRounds = 5;

/** Medians of whole processes. Options for a try: `--scale=N`, `--rounds=N`. */
export const evidence: Evidence = {
  name: "increment-size-independence",
  claim: "how long an increment takes depends on what changed, not on the size of the disk",
  bar: `≤ ${most} × the time on 4 GiB`,
  run: async (context) => {
    const { scale = "1", rounds = String(wholeRounds) } = context.options;
    const isTry = Object.keys(context.options).length > 0;
    const options = { scale: Number(scale), rounds: Number(rounds) };
    const { ratio, smallMs, largeMs } = await measureDiskSizes(options, context);
    return {
      figure: `${roundUp(ratio)} × (4 GiB ${smallMs.toFixed(0)} ms, 4 TiB ${largeMs.toFixed(0)} ms)`,
      holds: ratio <= most,
      ...(isTry ? { isPartial: true } : {}),
    };
  },
};
