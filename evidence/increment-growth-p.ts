/** Measures what an increment of workload P from a snapshot adds to the whole store. */
import { present } from "#base/assert.ts";

import { peerOn } from "../bench/peers/figures.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createPeerBar } from "../tools/evidence/peer-bar.ts";

/** Every byte of every file counts: pack, map, index, manifest. */
export const evidence: Evidence = createPeerBar({
  name: "increment-growth-p",
  claim: "an increment adds to the store what changed, and hardly more",
  most: 1.15,
  unit: "of the changed pages",
  read: (figures) => {
    const disk = present(
      figures.disks.find(({ name }) => name === "P"),
      "workload P was measured",
    );
    const grown = present(peerOn(figures, "P", "kluis").grownBytes, "kluis makes increments");
    const restic = peerOn(figures, "P", "restic").grownBytes ?? 0;
    const from = `${grown} B for ${disk.changedBytes} B; restic ${(restic / disk.changedBytes).toFixed(1)}`;
    return { value: grown / disk.changedBytes, from };
  },
});
