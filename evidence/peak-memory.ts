/** Reads the peak memory of Kluis in full backups and increments, as the kernel counts it. */
import { peerOn } from "../bench/peers/figures.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createPeerBar } from "../tools/evidence/peer-bar.ts";

const mebibyte = 1024 * 1024;

/**
 * The worst of all runs counts, with Node itself and the index (of ten thousand entries) in it;
 * index-speed says what an index takes.
 */
export const evidence: Evidence = createPeerBar({
  name: "peak-memory",
  claim: "a backup keeps within a fixed amount of memory, whatever the disk",
  most: 300,
  unit: "MiB resident at the peak",
  read: (figures) => {
    const p = peerOn(figures, "P", "kluis");
    const d = peerOn(figures, "D", "kluis");
    const steps = { "full P": p.full, "full D": d.full, increment: p.increment };
    const peaks = Object.entries(steps).map(([name, step]) => ({
      name,
      mebibytes: Math.max(...(step?.runs ?? []).map(({ peakBytes }) => peakBytes)) / mebibyte,
    }));
    const from = peaks.map(({ name, mebibytes }) => `${name} ${Math.ceil(mebibytes)}`).join(", ");
    return { value: Math.max(...peaks.map(({ mebibytes }) => mebibytes)), from };
  },
});
