/** Times a full backup of workload P next to restic. */
import { peerOn } from "../bench/peers/figures.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createPeerBar, toSeconds } from "../tools/evidence/peer-bar.ts";

/** The bar is on medians of the whole process, durable on both sides. */
export const evidence: Evidence = createPeerBar({
  name: "full-wall-p",
  claim: "a full backup of workload P takes far less time than restic's",
  most: 0.35,
  unit: "of restic's wall time",
  read: (figures) => {
    const ours = peerOn(figures, "P", "kluis").full;
    const theirs = peerOn(figures, "P", "restic").full;
    const from = `kluis ${toSeconds(ours.wallMs)}, restic ${toSeconds(theirs.wallMs)}`;
    return { value: ours.wallMs / theirs.wallMs, from };
  },
});
