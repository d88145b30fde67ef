/** What `image verify` and `rescue verify` do. */
import { errorRegistry } from "#base/error-codes.ts";
import {
  outputFormat,
  type VerdictOutput,
  type VerifiedPointOutput,
  type VerifyOutput,
} from "#contract/cli-output.ts";
import { verifyChoice } from "#protect/verify.ts";
import { rereadKeys } from "#vault/vault-files.ts";
import type { VerifiedDisk, VerifiedPoint, VerifyReport } from "#vault/verify.ts";
import type { CommandInput } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { formatBytes, formatDuration, formatTable, printable } from "#cli/format.ts";
import { findItemId } from "#cli/item-id.ts";
import { openVaultSession, type VaultSessionOptions } from "#cli/open-vault.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { depthOf } from "#cli/verify-depth.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";

/** Ranges of a disk that a table shows. */
const rangesShown = 8;
/** Objects that a table shows. */
const objectsShown = 20;

/** What a command ends with after a check. */
export const exitOfVerdict: Readonly<Record<VerdictOutput, number>> = {
  sound: 0,
  damaged: errorRegistry.ObjectCorrupt.exit,
  unknown: errorRegistry.StoreUnavailable.exit,
};

/** Verifies what a command line asks for; the exit code tells the verdict. */
export async function runVerify(
  input: CommandInput,
  environment: CliEnvironment,
  options: VaultSessionOptions,
): Promise<number> {
  const form = outputFormOf(input);
  const { clock, signal } = environment;
  await using session = await openVaultSession(input, environment, options);
  const { vault, store, files } = session;
  const item = input.text("item");
  const pointId = input.text("point");
  const depth = depthOf(input);
  await using display = new ProgressDisplay({ ...environment, form });
  const report = await verifyChoice(
    {
      ...(item === undefined ? {} : { itemId: await findItemId(vault, item, environment) }),
      ...(pointId === undefined ? {} : { pointId }),
    },
    {
      store,
      keys: files.keys,
      vault,
      known: session.setBack,
      rereadKeys: () => rereadKeys(store, files, signal),
      record: options.intent !== "rescue" && !input.isOff("record"),
      ...(depth === undefined ? {} : { depth }),
      clock,
      signal,
      onProgress: (doneBytes, totalBytes) =>
        display.update({ disk: "vault", doing: "verifying", doneBytes, totalBytes }),
    },
  );
  await display[Symbol.asyncDispose]();
  printResult(environment, form, { document: toVerifyOutput(report), lines: verifyLines(report) });
  return exitOfVerdict[report.verdict];
}

/** The document of a verification. */
export function toVerifyOutput(report: VerifyReport): VerifyOutput {
  const { depth, verdict, objectsUnnamed, objectsChecked, bytesRead, blocksChecked } = report;
  return {
    format: outputFormat,
    kind: "verify",
    depth,
    verdict,
    pointsVerdict: report.pointsVerdict,
    objectsUnnamed,
    objectsChecked,
    bytesRead,
    blocksChecked,
    badObjects: report.badObjects,
    badObjectsOmitted: report.badObjectsOmitted,
    points: report.points.map(toVerifiedPointOutput),
    durationMs: Math.round(report.durationMs),
  };
}

function toVerifiedPointOutput(point: VerifiedPoint): VerifiedPointOutput {
  const { name, manifest, verdict, disks, reason } = point;
  return {
    id: name.pointId,
    itemId: manifest?.itemId ?? "",
    itemName: manifest?.itemName ?? "",
    verdict,
    disks,
    ...(reason === undefined ? {} : { reason }),
  };
}

const verdictTexts: Readonly<Record<VerdictOutput, string>> = {
  sound: "Sound: every recovery point that was looked at can be restored.",
  damaged: "Damaged: what is named above cannot be restored as it was.",
  unknown: "Unknown: what is named above could not be read just now; run the command again.",
};

/** The lines of a verification. */
export function verifyLines(report: VerifyReport): readonly string[] {
  const rows = report.points.map(({ name, manifest, verdict, disks }) => [
    manifest === undefined ? "?" : printable(manifest.itemId),
    name.pointId,
    verdict,
    formatBytes(disks.reduce((sum, disk) => sum + disk.damagedBytes, 0)),
  ]);
  const columns = [
    { head: "ITEM" },
    { head: "RECOVERY POINT" },
    { head: "VERDICT" },
    { head: "AFFECTED", align: "right" as const },
  ];
  const { objectsChecked, bytesRead, blocksChecked, durationMs } = report;
  return [
    ...(rows.length === 0 ? ["The vault holds no recovery point."] : formatTable(columns, rows)),
    ...report.points.flatMap((point) => detailLines(point)),
    ...objectLines(report),
    "",
    `${objectsChecked} objects and ${blocksChecked} blocks checked, ${formatBytes(bytesRead)} read in ${formatDuration(durationMs)}`,
    report.pointsVerdict === "sound" && report.verdict !== "sound"
      ? "Every recovery point can be restored all the same; `kluis vault repair` puts the rest in order."
      : verdictTexts[report.verdict],
  ];
}

function detailLines(point: VerifiedPoint): readonly string[] {
  const { name, disks, reason } = point;
  const ofPoint = reason === undefined ? [] : ["", `${name.pointId}: ${printable(reason)}`];
  return [
    ...ofPoint,
    ...disks
      .filter(({ verdict }) => verdict !== "sound")
      .flatMap((disk) => ["", ...diskLines(name.pointId, disk)]),
  ];
}

function diskLines(pointId: string, disk: VerifiedDisk): readonly string[] {
  const shown = disk.ranges.slice(0, rangesShown);
  const more = disk.ranges.length - shown.length + disk.rangesOmitted;
  return [
    `${pointId} disk ${printable(disk.name)}: ${disk.verdict}: ${printable(disk.reason ?? "")}`,
    ...shown.map(
      ({ offsetBytes, lengthBytes }) =>
        `  from byte ${offsetBytes} to ${offsetBytes + lengthBytes} (${formatBytes(lengthBytes)})`,
    ),
    ...(more === 0 ? [] : [`  and ${more} more ranges`]),
  ];
}

function objectLines(report: VerifyReport): readonly string[] {
  const { badObjects, badObjectsOmitted } = report;
  if (badObjects.length === 0) return [];
  const shown = badObjects.slice(0, objectsShown);
  const more = badObjects.length - shown.length + badObjectsOmitted;
  return [
    "",
    ...shown.map(
      ({ name, verdict, reason }) => `${verdict} object ${printable(name)}: ${printable(reason)}`,
    ),
    ...(more === 0 ? [] : [`and ${more} more objects`]),
  ];
}
