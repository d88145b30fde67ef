/** Jobs of VMs and recovery points with their tiers, for people and for scripts. */
import type {
  BackupOutput,
  JobOutput,
  SnapshotOutput,
  TaskOutput,
  TieredPointOutput,
  VmPointsOutput,
} from "#contract/cli-output.ts";
import { outputFormat } from "#contract/cli-output.ts";
import type { VmBackupJob } from "#protect/backup-vm.ts";
import type { Transfer } from "#protect/transfer-snapshot.ts";
import { type TieredListing, type TieredPoint, tiersOf } from "#protect/vm-points.ts";
import {
  type Column,
  formatBytes,
  formatDuration,
  formatTable,
  formatTime,
  printable,
} from "#cli/format.ts";
import type { VaultSession } from "#cli/open-vault.ts";
import { toBackupOutput } from "#cli/render-backup.ts";

/** What became of a transfer, as the contract has it. */
export function toTaskOutput(transfer: Transfer): TaskOutput {
  if (transfer.status === "Completed") return { status: transfer.status };
  if (transfer.status === "Skipped") return transfer;
  const { code, message } = transfer.error;
  return { status: transfer.status, reason: message, code };
}

/** The document of a job: of the point in the vault, or of the snapshot where nothing was sent. */
export function toJobDocument(
  job: VmBackupJob,
  point: TieredPoint,
  session: Pick<VaultSession, "store" | "setBack"> | undefined,
): BackupOutput | SnapshotOutput {
  const { transfer, warnings } = job;
  const durationMs = Math.round(job.durationMs);
  const tasks = toJobOutput(job);
  if (transfer.status === "Completed" && session !== undefined) {
    const output = toBackupOutput({ ...transfer.outcome, warnings }, session);
    return { ...output, durationMs, job: tasks };
  }
  const head = { format: outputFormat, kind: "snapshot" } as const;
  return { ...head, point: toTieredPointOutput(point), job: tasks, durationMs, warnings };
}

function toJobOutput({ status, transfer, expiry }: VmBackupJob): JobOutput {
  return {
    status,
    snapshot: { status: "Completed" },
    transfer: toTaskOutput(transfer),
    expired: expiry.expired,
    expiredEarly: expiry.early,
  };
}

/** The lines of a job whose transfer sent nothing. */
export function snapshotLines(job: VmBackupJob, point: TieredPoint): readonly string[] {
  const { transfer } = job;
  const why = transfer.status === "Skipped" ? `skipped: ${transfer.reason}` : "failed";
  return [
    `Recovery point ${point.pointId} of ${printable(point.itemName)}, in its snapshot`,
    `Taken ${formatTime(point.takenAtMs)}, ${point.consistency}-consistent`,
    `Transfer to the vault ${why}`,
    `${job.status} in ${formatDuration(job.durationMs)}`,
  ];
}

/** A recovery point with its tiers, as the contract has it. */
export function toTieredPointOutput(point: TieredPoint): TieredPointOutput {
  const { consistencyReason, frozenMs, expiresAtMs, manifest } = point;
  return {
    id: point.pointId,
    itemId: point.itemId,
    itemName: point.itemName,
    takenAt: new Date(point.takenAtMs).toISOString(),
    consistency: point.consistency,
    ...(consistencyReason === undefined ? {} : { consistencyReason }),
    ...(frozenMs === undefined ? {} : { frozenMs }),
    tiers: tiersOf(point),
    ...(expiresAtMs === undefined
      ? {}
      : { snapshotExpiresAt: new Date(expiresAtMs).toISOString() }),
    ...(manifest === undefined
      ? {}
      : { committedAt: new Date(manifest.committedAtMs).toISOString() }),
    disks: point.disks,
  };
}

/** The document of a list. */
export function toVmPointsOutput(listing: TieredListing): VmPointsOutput {
  return {
    format: outputFormat,
    kind: "vm-points",
    isVaultAsked: listing.isVaultAsked,
    points: listing.points.map(toTieredPointOutput),
    unreadable: listing.unreadable.map(({ item, pointId, code, message }) => ({
      id: pointId,
      item,
      code,
      message,
    })),
  };
}

const columns: readonly Column[] = [
  { head: "RECOVERY POINT" },
  { head: "TAKEN" },
  { head: "CONSISTENCY" },
  { head: "TIER" },
  { head: "SNAPSHOT UNTIL" },
  { head: "DISKS", align: "right" },
  { head: "SIZE", align: "right" },
];

/** The lines of a list. */
export function vmPointsLines(listing: TieredListing): readonly string[] {
  const rows = listing.points.map((point) => [
    point.pointId,
    formatTime(point.takenAtMs),
    point.consistency,
    tiersOf(point).join(" and "),
    point.expiresAtMs === undefined ? "" : formatTime(point.expiresAtMs),
    String(point.disks.length),
    formatBytes(point.disks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)),
  ]);
  const damaged = listing.unreadable.map(
    ({ pointId, message, code }) => `Unreadable: ${pointId}: ${printable(message)} (${code})`,
  );
  const note = listing.isVaultAsked ? [] : ["No vault was asked: only snapshots are listed."];
  if (rows.length === 0) return ["There is no recovery point of this VM.", ...damaged, ...note];
  return [...formatTable(columns, rows), ...damaged, ...note];
}
