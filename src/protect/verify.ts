/** Verifies a vault, an item or one recovery point. */
import { KluisError } from "#base/kluis-error.ts";
import { checkPointId } from "#vault/recovery-point.ts";
import type { PointName, Vault } from "#vault/vault.ts";
import { type VerifyOptions, type VerifyReport, verifyVault } from "#vault/verify.ts";

/** What to verify: everything, all points of an item, or one point. */
export interface VerifyChoice {
  readonly itemId?: string;
  readonly pointId?: string;
}

/**
 * Verifies what is chosen; what is wrong is in the report. RecoveryPointNotFound, ArgumentInvalid
 * (after-change) where the choice names nothing.
 */
export async function verifyChoice(
  choice: VerifyChoice,
  options: Omit<VerifyOptions, "points">,
): Promise<VerifyReport> {
  const points = await choosePoints(options.vault, choice, options.signal);
  return await verifyVault({ ...options, ...(points === undefined ? {} : { points }) });
}

async function choosePoints(
  vault: Vault,
  choice: VerifyChoice,
  signal: AbortSignal | undefined,
): Promise<readonly PointName[] | undefined> {
  const { itemId } = choice;
  const pointId = choice.pointId === undefined ? undefined : checkPointId(choice.pointId);
  if (itemId === undefined && pointId === undefined) return undefined;
  const names = await vault.listPoints(itemId, signal);
  const chosen = pointId === undefined ? names : names.filter((name) => name.pointId === pointId);
  if (chosen.length > 0) return chosen;
  const what = pointId === undefined ? `a recovery point of "${itemId}"` : `"${pointId}"`;
  throw new KluisError(
    "RecoveryPointNotFound",
    `Cannot verify ${what}: the vault has none${itemId === undefined || pointId === undefined ? "" : ` of "${itemId}"`}`,
  );
}
