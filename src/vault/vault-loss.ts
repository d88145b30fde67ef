/** Errors of reading a vault that say that it has lost something. */
import { isKluisError, type KluisError } from "#base/kluis-error.ts";

/** Whether an error of reading says that the vault has lost an object or a block, or holds it damaged. */
export function isVaultLoss(error: unknown): error is KluisError {
  const isDamage =
    isKluisError(error, "ObjectCorrupt") ||
    isKluisError(error, "ObjectNotFound") ||
    isKluisError(error, "BlockMissing");
  // What memory has changed while it was sealed is no object's fault, and no reason to go on.
  return isDamage && ["object", "block", "node"].some((detail) => detail in error.details);
}
