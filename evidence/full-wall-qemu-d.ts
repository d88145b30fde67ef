/** Times a full backup of workload D next to a plain compressed copy. */
import { peerOn } from "../bench/peers/figures.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createPeerBar, toSeconds } from "../tools/evidence/peer-bar.ts";

/** The bar is on medians of the whole process, durable on both sides. */
export const evidence: Evidence = createPeerBar({
  name: "full-wall-qemu-d",
  claim:
    "a full backup of workload D takes less time than qemu-img convert -c, which neither encrypts, dedups nor verifies",
  most: 0.7,
  unit: "of qemu-img's wall time",
  read: (figures) => {
    const ours = peerOn(figures, "D", "kluis").full;
    const theirs = peerOn(figures, "D", "qemu-img").full;
    const from = `kluis ${toSeconds(ours.wallMs)}, qemu-img ${toSeconds(theirs.wallMs)}`;
    return { value: ours.wallMs / theirs.wallMs, from };
  },
});
