/** Times a full backup of workload P next to restic. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createFullWallBar } from "../tools/evidence/peer-bar.ts";

/** The bar is on medians of the whole process, durable on both sides. */
export const evidence: Evidence = createFullWallBar({
  name: "full-wall-p",
  claim: "a full backup of workload P takes far less time than restic's",
  most: 0.35,
  workload: "P",
  peer: "restic",
});
