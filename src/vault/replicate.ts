/**
 * A second copy of a vault: replication to a secondary, and copies that are vaults of their own;
 * docs/design/redundancy.md.
 */
import { bytesEqual, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { CopyReport, CopyRunOptions, ReplicationLag } from "#vault/copy-report.ts";
import { CopyRun } from "#vault/copy/copy-run.ts";
import { lagOf, listForCopy, planCopy, readHiddenNames } from "#vault/copy/plan-copy.ts";
import { assertNotSecondary, isSecondaryOf, releaseSecondary } from "#vault/copy/secondary.ts";
import type { PointName } from "#vault/vault.ts";
import { readVaultHeader } from "#vault/vault-files.ts";

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
