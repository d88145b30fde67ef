/** The result of a backup, for people and for scripts. */
import { type BackupOutput, outputFormat } from "#contract/cli-output.ts";
import type { BackupOutcome, BackupPhase } from "#protect/backup-run.ts";
import { findSlowCauses } from "#protect/slow-causes.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import {
  type Column,
  formatBytes,
  formatDuration,
  formatTable,
  formatTime,
  printable,
} from "#cli/format.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import type { VaultSession } from "#cli/open-vault.ts";
import { type OutputForm, printResult, printWarnings, toPointOutput } from "#cli/output.ts";
import { setBackWarnings } from "#cli/vault-memory.ts";

/** What a disk is doing, as progress lines say it. */
export const phaseWords: Readonly<Record<BackupPhase, string>> = {
  compare: "comparing",
  transfer: "sending",
};

const trackingWords: Readonly<Record<string, string>> = {
  full: "full read",
  "snapshot-difference": "snapshot",
  "dirty-bitmap": "bitmap",
  checksum: "checksums",
};

const columns: readonly Column[] = [
  { head: "DISK" },
  { head: "SIZE", align: "right" },
  { head: "READ", align: "right" },
  { head: "CHANGED", align: "right" },
  { head: "NEW", align: "right" },
  { head: "STORED", align: "right" },
  { head: "CHANGES BY" },
];

/** The document of a backup; `session` is that of the vault. */
export function toBackupOutput(
  outcome: BackupOutcome,
  session: Pick<VaultSession, "store" | "setBack">,
): BackupOutput {
  return {
    format: outputFormat,
    kind: "backup",
    point: toPointOutput(outcome.manifest),
    addedObjects: outcome.added.objects,
    addedBytes: outcome.added.bytes,
    durationMs: Math.round(outcome.durationMs),
    warnings: [...setBackWarnings(session.store, session.setBack), ...outcome.warnings],
  };
}

/** Prints what a backup came to, its warnings first. */
export function printBackup(
  environment: Pick<CliEnvironment, "terminal">,
  form: OutputForm,
  done: {
    readonly outcome: BackupOutcome;
    readonly session: Pick<VaultSession, "store" | "setBack">;
  },
): void {
  const { outcome, session } = done;
  printWarnings(environment, outcome.warnings);
  printResult(environment, form, {
    document: toBackupOutput(outcome, session),
    lines: backupLines(outcome),
  });
}

/** The lines of a backup. */
export function backupLines(outcome: BackupOutcome): readonly string[] {
  const { manifest, added, durationMs } = outcome;
  const rows = manifest.disks.map((disk) => [
    printable(disk.name),
    formatBytes(disk.sizeBytes),
    formatBytes(disk.examinedBytes),
    formatBytes(disk.changedBytes),
    formatBytes(disk.newBytes),
    formatBytes(disk.storedBytes),
    trackingWords[disk.tracking] ?? disk.tracking,
  ]);
  const reasons = manifest.disks.flatMap((disk) =>
    disk.trackingReason === undefined
      ? []
      : [`${printable(disk.name)}: ${printable(disk.trackingReason)}`],
  );
  const healed = manifest.disks.flatMap(({ name, healedBytes }) =>
    healedBytes === undefined
      ? []
      : [
          `${printable(name)}: ${formatBytes(healedBytes)} that the vault had lost are stored again`,
        ],
  );
  return [
    `Recovery point ${manifest.pointId} of ${printable(manifest.itemName)}`,
    `Taken ${formatTime(manifest.takenAtMs)}, ${consistencyText(manifest)}`,
    "",
    ...formatTable(columns, rows),
    ...(reasons.length + healed.length === 0 ? [] : ["", ...reasons, ...healed]),
    "",
    ...timingLines(manifest),
    `Committed in ${formatDuration(durationMs)}; the store grew by ${formatBytes(added.bytes)} (${added.objects} objects)`,
  ];
}

/** Where the time went, and why it was more than usual. */
function timingLines(point: RecoveryPoint): readonly string[] {
  const { timing } = point;
  const parts = timing && [
    `preparation ${formatDuration(timing.preparationMs)}`,
    `snapshot ${formatDuration(timing.snapshotMs)}`,
    `finding changes ${formatDuration(timing.changesMs)}`,
    `transfer ${formatDuration(timing.transferMs)}`,
  ];
  return [
    ...(parts === undefined ? [] : [`Time: ${parts.join(", ")}`]),
    ...findSlowCauses(point).map(
      ({ disk, text }) => `Slow: ${printable(disk)}: ${printable(text)}`,
    ),
  ];
}

/** What the state of the disks is worth. */
export function consistencyText(point: RecoveryPoint): string {
  const { consistency, consistencyReason, frozenMs } = point;
  const reason = consistencyReason === undefined ? "" : ` (${printable(consistencyReason)})`;
  const frozen = frozenMs === undefined ? "" : `, guest frozen for ${formatDuration(frozenMs)}`;
  return `${consistency}-consistent${reason}${frozen}`;
}
