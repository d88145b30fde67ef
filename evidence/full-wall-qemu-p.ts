/** Times a full backup of workload P next to a plain compressed copy. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createFullWallBar } from "../tools/evidence/peer-bar.ts";

/** The bar is on medians of the whole process, durable on both sides. */
export const evidence: Evidence = createFullWallBar({
  name: "full-wall-qemu-p",
  claim:
    "a full backup of workload P takes less time than qemu-img convert -c, which neither encrypts, dedups nor verifies",
  most: 0.6,
  workload: "P",
  peer: "qemu-img",
});
