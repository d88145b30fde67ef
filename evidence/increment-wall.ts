/** Times an increment on workload P, from a snapshot and with a key file, next to restic's. */
import { present } from "#base/assert.ts";

import { peerOn } from "../bench/peers/figures.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createPeerBar, toSeconds } from "../tools/evidence/peer-bar.ts";

/** The bar is on medians of the whole process, durable on both sides. */
export const evidence: Evidence = createPeerBar({
  name: "increment-wall",
  claim: "an increment of 2,621 changed pages takes a tenth of restic's time",
  most: 0.1,
  unit: "of restic's wall time",
  read: (figures) => {
    const ours = present(peerOn(figures, "P", "kluis").increment, "kluis makes increments");
    const theirs = present(peerOn(figures, "P", "restic").increment, "restic makes increments");
    const from = `kluis ${toSeconds(ours.wallMs)}, restic ${toSeconds(theirs.wallMs)}`;
    return { value: ours.wallMs / theirs.wallMs, from };
  },
});
