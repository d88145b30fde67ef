/** Times a full backup of workload D next to restic. */
import { peerOn } from "../bench/peers/figures.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createPeerBar, toSeconds } from "../tools/evidence/peer-bar.ts";

/** The bar is on medians of the whole process, durable on both sides. */
export const evidence: Evidence = createPeerBar({
  name: "full-wall-d",
  claim: "a full backup of workload D takes far less time than restic's",
  most: 0.55,
  unit: "of restic's wall time",
  read: (figures) => {
    const ours = peerOn(figures, "D", "kluis").full;
    const theirs = peerOn(figures, "D", "restic").full;
    const from = `kluis ${toSeconds(ours.wallMs)}, restic ${toSeconds(theirs.wallMs)}`;
    return { value: ours.wallMs / theirs.wallMs, from };
  },
});
