/** Times the deletion of 30 points and the collection of their space of a vault of 60 recovery points, next to restic. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createVaultBar } from "../tools/evidence/vault-bar.ts";

/** Whole processes, durable on both sides; see bench/vault.ts. */
export const evidence: Evidence = createVaultBar({
  name: "vault-collect-wall",
  claim:
    "deleting half of 60 points and freeing their space takes less than a third of restic's time",
  step: "collect",
  most: 0.3,
});
