/**
 * A second copy of a vault: replication to a secondary, and copies that are vaults of their own;
 * docs/design/redundancy.md.
 */
import { bytesEqual, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type {
  CopyReport,
  CopyRunOptions,
  ReplicationLag,
  SecondaryPruning,
} from "#vault/copy-report.ts";
import { CopyRun, copyRoundsMax } from "#vault/copy/copy-run.ts";
import { type PruneLimits, pruneSecondary } from "#vault/copy/prune-secondary.ts";
import { lagOf, listForCopy, planCopy, readHiddenNames } from "#vault/copy/plan-copy.ts";
import { assertNotSecondary, isSecondaryOf, releaseSecondary } from "#vault/copy/secondary.ts";
import type { PointName } from "#vault/vault.ts";
import { readVaultHeader } from "#vault/vault-files.ts";
import { isVaultLoss } from "#vault/vault-loss.ts";

/**
 * Brings the secondary up to the primary, adding only; what the report says is durable. The secondary
 * is an empty place or one to which this vault was replicated before. Runs may overlap, and go on
 * where one broke off. What is damaged is in the report, not thrown.
 *
 * Errors: StoreIsSecondary (after-change) where the primary is a secondary itself; StoreNotEmpty,
 * StoreForeign, StoreUnsuitable (after-change) for a place that cannot be the secondary; Busy
 * (backoff) where a collector removes objects all the time; those of the stores.
 */
export async function replicateVault(options: CopyRunOptions): Promise<CopyReport> {
  await assertNotSecondary(options.primary, options.signal);
  return await new CopyRun(options, { role: "secondary" }).run();
}

/** The report of a replication that prunes. */
export interface PrunedReplication extends CopyReport {
  /** Absent where something was damaged or held back: then nothing is removed. */
  readonly pruning?: SecondaryPruning;
}

/**
 * Replicates, and then takes out of the secondary what the primary has deleted and collected; see
 * {@link pruneSecondary}. Only a secondary that has all of its primary is pruned.
 *
 * Errors: as {@link replicateVault} and {@link pruneSecondary}.
 */
export async function replicateAndPrune(
  options: CopyRunOptions,
  limits: PruneLimits = {},
): Promise<PrunedReplication> {
  let before: Pick<CopyReport, "objects" | "bytes" | "points"> = {
    objects: 0,
    bytes: 0,
    points: 0,
  };
  for (let round = 0; round < copyRoundsMax; round++) {
    const run = await replicateVault(options);
    const report = {
      ...run,
      objects: before.objects + run.objects,
      bytes: before.bytes + run.bytes,
      points: before.points + run.points,
    };
    if (report.damaged.length + report.heldBack.length > 0) return report;
    const pruning = await pruneUnlessMoved(options, limits, round === 0);
    if (pruning !== undefined) return { ...report, pruning };
    before = report;
  }
  throw new KluisError("Busy", "Cannot prune the secondary: the primary changes all the time");
}

/** `undefined`, too, where another replication brought a point while the collection listed what there is. */
async function pruneUnlessMoved(
  options: CopyRunOptions,
  limits: PruneLimits,
  isFirst: boolean,
): Promise<SecondaryPruning | undefined> {
  try {
    return await pruneSecondary(options, limits);
  } catch (error) {
    if (!isFirst || !isVaultLoss(error)) throw error;
    return undefined;
  }
}

/** The report of a copy. */
export interface VaultCopyReport extends CopyReport {
  /** Whether the copy is a vault of its own now: nothing was held back. */
  readonly isComplete: boolean;
}

/**
 * Copies a vault, or only `points` of it and what they need, to an empty place, where it becomes a vault
 * of its own once nothing is held back; until then backups are refused there, and the same call
 * goes on with it. Errors: as {@link replicateVault}, and RecoveryPointNotFound (after-change).
 */
export async function copyVault(
  options: CopyRunOptions,
  points?: readonly PointName[],
): Promise<VaultCopyReport> {
  const { secondary, signal } = options;
  const report = await new CopyRun(options, { role: "copy", points }).run();
  const isComplete = report.heldBack.length === 0 && report.damaged.length === 0;
  if (isComplete) await releaseSecondary(secondary, signal);
  return { ...report, isComplete };
}

/**
 * How far the secondary is behind, by names and sizes; needs no key and changes nothing. StoreNotFound
 * (after-change) where a place is no vault, StoreNotEmpty where the secondary is that of another one.
 */
export async function measureLag(
  options: Pick<CopyRunOptions, "primary" | "secondary" | "clock" | "signal">,
): Promise<ReplicationLag> {
  const { primary, secondary, clock, signal } = options;
  const { vaultId } = await readVaultHeader(primary, signal);
  const there = await readVaultHeader(secondary, signal);
  if (!bytesEqual(vaultId, there.vaultId) || !(await isSecondaryOf(secondary, vaultId, signal))) {
    throw new KluisError(
      "StoreNotEmpty",
      `Cannot compare with "${secondary.location}": it is not a secondary of vault ${toHex(vaultId)}`,
    );
  }
  const measuredAtMs = clock.nowMs();
  const isHidden = await readHiddenNames(primary, signal);
  const listing = await listForCopy(primary, isHidden, signal);
  const { missing } = planCopy(listing, await listForCopy(secondary, () => false, signal));
  return lagOf(Object.values(missing).flat(), measuredAtMs);
}

/** Makes a secondary a vault of its own; stop replication to it first. See {@link releaseSecondary}. */
export async function promoteVault(
  options: Pick<CopyRunOptions, "secondary" | "signal">,
): Promise<void> {
  await readVaultHeader(options.secondary, options.signal);
  await releaseSecondary(options.secondary, options.signal);
}
