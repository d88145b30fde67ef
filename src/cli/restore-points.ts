/** What `image restore`, `vm restore` and `rescue restore` share. */
import { join } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import { outputFormat, type RestoreOutput } from "#contract/cli-output.ts";
import type { ImageAccess, ImageFormat } from "#ports/source-image.ts";
import type { RestorableDisk, RestorePlan, WantedTarget } from "#protect/plan-restore.ts";
import { applyRestore, type OpenDisk, type RestoreOutcome } from "#protect/restore.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import type { CommandInput } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { type Column, formatBytes, formatDuration, formatTable, printable } from "#cli/format.ts";
import { type OutputForm, toPointOutput } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";

/** The format that a command line names, else what the name of the target says. */
export function targetFormatOf(input: CommandInput, place: string): ImageFormat {
  const named = input.text("targetFormat");
  if (named === "raw" || named === "qcow2") return named;
  return place.endsWith(".qcow2") ? "qcow2" : "raw";
}

/** A target for each disk in a folder: `NAME.FORMAT`. ArgumentInvalid (after-change). */
export function targetsInFolder(
  disks: readonly RestorableDisk[],
  folder: string,
  format: ImageFormat,
): readonly WantedTarget[] {
  return disks.map(({ name }) => {
    if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name)) {
      return { diskName: name, place: join(folder, `${name}.${format}`), format };
    }
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot name an image after disk "${name}": restore it with kluis image restore --disk`,
    );
  });
}

/** Restores by a plan, with progress. */
export async function restoreWithProgress(
  plan: RestorePlan,
  environment: CliEnvironment,
  parts: { readonly openDisk: OpenDisk; readonly images: ImageAccess; readonly form: OutputForm },
): Promise<RestoreOutcome> {
  await using display = new ProgressDisplay({ ...environment, form: parts.form });
  return await applyRestore(plan, {
    openDisk: parts.openDisk,
    images: parts.images,
    clock: environment.clock,
    signal: environment.signal,
    onProgress: (progress) => display.update({ ...progress, doing: "restoring" }),
  });
}

/** The document of a restore out of a vault. */
export function toRestoreOutput(point: RecoveryPoint, outcome: RestoreOutcome): RestoreOutput {
  return { ...toRestoredOutput(outcome), point: toPointOutput(point), tier: "vault" };
}

/** The document of a restore but for what was restored. */
export function toRestoredOutput(outcome: RestoreOutcome): Omit<RestoreOutput, "point" | "tier"> {
  return {
    format: outputFormat,
    kind: "restore",
    disks: outcome.disks.map(({ planned, dataBytes, zeroBytes, durationMs }) => ({
      name: planned.diskName,
      target: planned.place,
      format: planned.format,
      sizeBytes: planned.disk.sizeBytes,
      dataBytes,
      zeroBytes,
      durationMs: Math.round(durationMs),
    })),
    durationMs: Math.round(outcome.durationMs),
  };
}

const columns: readonly Column[] = [
  { head: "DISK" },
  { head: "SIZE", align: "right" },
  { head: "DATA", align: "right" },
  { head: "TIME", align: "right" },
  { head: "TARGET" },
];

/** The lines of a restore. */
export function restoreLines(
  point: Pick<RecoveryPoint, "pointId" | "itemName">,
  outcome: RestoreOutcome,
): readonly string[] {
  const { disks, durationMs } = outcome;
  const rows = disks.map((disk) => [
    printable(disk.planned.diskName),
    formatBytes(disk.planned.disk.sizeBytes),
    formatBytes(disk.dataBytes),
    formatDuration(disk.durationMs),
    printable(disk.planned.place),
  ]);
  return [
    `Restored recovery point ${point.pointId} of ${printable(point.itemName)}`,
    "",
    ...formatTable(columns, rows),
    "",
    `Verified while reading, complete and durable after ${formatDuration(durationMs)}`,
  ];
}
