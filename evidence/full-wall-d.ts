/** Times a full backup of workload D next to restic. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createFullWallBar } from "../tools/evidence/peer-bar.ts";

/** The bar is on medians of the whole process, durable on both sides. */
export const evidence: Evidence = createFullWallBar({
  name: "full-wall-d",
  claim: "a full backup of workload D takes far less time than restic's",
  most: 0.55,
  workload: "D",
  peer: "restic",
});
