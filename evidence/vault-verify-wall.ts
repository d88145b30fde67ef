/** Times a full verification of a vault of 60 recovery points, next to restic. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { createVaultBar } from "../tools/evidence/vault-bar.ts";

/** Whole processes, durable on both sides; see bench/vault.ts. */
export const evidence: Evidence = createVaultBar({
  name: "vault-verify-wall",
  claim: "decrypting and hashing all of a vault of 60 points takes less than half of restic's time",
  step: "verify",
  most: 0.4,
});
