/** Prints results: a table for people, one JSON document for scripts. */
import type { PointDiskOutput, PointOutput } from "#contract/cli-output.ts";
import { findSlowCauses } from "#protect/slow-causes.ts";
import type { RecoveryPoint, RecoveryPointDisk } from "#vault/recovery-point.ts";
import type { CommandInput } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";

/** The form of the result. */
export type OutputForm = "table" | "json";

/** What `--output` says. */
export function outputFormOf(input: CommandInput): OutputForm {
  return input.text("output") === "json" ? "json" : "table";
}

/** Prints a document as JSON, or `lines` of it. */
export function printResult(
  environment: Pick<CliEnvironment, "terminal">,
  form: OutputForm,
  result: { readonly document: object; readonly lines: readonly string[] },
): void {
  const text =
    form === "json"
      ? `${JSON.stringify(result.document, undefined, 2)}\n`
      : result.lines.map((line) => `${line}\n`).join("");
  environment.terminal.output.write(text);
}

/** Writes warnings to the error stream; scripts find them in the document. */
export function printWarnings(
  environment: Pick<CliEnvironment, "terminal">,
  warnings: readonly string[],
): void {
  for (const warning of warnings) environment.terminal.errors.write(`Warning: ${warning}\n`);
}

/** A recovery point as the contract has it. */
export function toPointOutput(point: RecoveryPoint): PointOutput {
  const { consistencyReason, consistencyEvidence, frozenMs, basePointId, timing } = point;
  return {
    id: point.pointId,
    itemId: point.itemId,
    itemName: point.itemName,
    takenAt: new Date(point.takenAtMs).toISOString(),
    committedAt: new Date(point.committedAtMs).toISOString(),
    consistency: point.consistency,
    ...(consistencyReason === undefined ? {} : { consistencyReason }),
    ...(consistencyEvidence === undefined ? {} : { consistencyEvidence }),
    ...(frozenMs === undefined ? {} : { frozenMs }),
    ...(basePointId === undefined ? {} : { basePointId }),
    ...(timing === undefined ? {} : { timing }),
    slowCauses: findSlowCauses(point),
    disks: point.disks.map(toPointDiskOutput),
  };
}

function toPointDiskOutput(disk: RecoveryPointDisk): PointDiskOutput {
  const { name, sizeBytes, mappedBytes, examinedBytes, changedBytes, newBytes, storedBytes } = disk;
  return {
    name,
    sizeBytes,
    mappedBytes,
    examinedBytes,
    changedBytes,
    newBytes,
    storedBytes,
    tracking: disk.tracking,
    ...(disk.namedBytes === undefined ? {} : { namedBytes: disk.namedBytes }),
    ...(disk.namedRanges === undefined ? {} : { namedRanges: disk.namedRanges }),
    ...(disk.healedBytes === undefined ? {} : { healedBytes: disk.healedBytes }),
    ...(disk.trackingReason === undefined ? {} : { trackingReason: disk.trackingReason }),
  };
}
