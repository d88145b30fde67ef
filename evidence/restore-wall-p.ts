/** Times a restore of workload P next to restic. */
import { peerOn } from "../bench/peers/figures.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createPeerBar, toSeconds } from "../tools/evidence/peer-bar.ts";

/** The bar is on medians of the whole process, durable on both sides. */
export const evidence: Evidence = createPeerBar({
  name: "restore-wall-p",
  claim: "a restore of workload P takes less than half of restic's time",
  most: 0.5,
  unit: "of restic's wall time",
  read: (figures) => {
    const ours = peerOn(figures, "P", "kluis").restore;
    const theirs = peerOn(figures, "P", "restic").restore;
    const from = `kluis ${toSeconds(ours.wallMs)}, restic ${toSeconds(theirs.wallMs)}`;
    return { value: ours.wallMs / theirs.wallMs, from };
  },
});
