/** Compares what a full backup of workload D takes in the store with restic's. */
import { peerOn } from "../bench/peers/figures.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createPeerBar } from "../tools/evidence/peer-bar.ts";

/** Every byte of every file of both stores counts. */
export const evidence: Evidence = createPeerBar({
  name: "stored-d",
  claim: "a full backup of workload D takes hardly more room than restic's",
  most: 1.08,
  unit: "of restic's stored bytes",
  read: (figures) => {
    const ours = peerOn(figures, "D", "kluis").storedBytes;
    const theirs = peerOn(figures, "D", "restic").storedBytes;
    return { value: ours / theirs, from: `kluis ${ours} B, restic ${theirs} B` };
  },
});
