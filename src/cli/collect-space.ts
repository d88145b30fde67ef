/** Frees the space of deleted recovery points for a command line, and says what that came to. */
import { type CollectionOutput, outputFormat } from "#contract/cli-output.ts";
import { errorRegistry } from "#base/error-codes.ts";
import type { CollectedSpace, Vault } from "#vault/vault.ts";
import type { CommandInput, OptionSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { formatBytes, formatDuration } from "#cli/format.ts";

const mib = 1024 * 1024;
const minuteMs = 60 * 1000;

/** What bounds a collection. */
export const collectionOptions: readonly OptionSpec[] = [
  {
    flags: "--wait <minutes>",
    text: "how long to wait for backups that run",
    otherwise: "60",
  },
  {
    flags: "--abandon-after <minutes>",
    text: "end backups that gave no sign of life for so long",
    otherwise: "120",
  },
  {
    flags: "--max-unused <percent>",
    text: "share of the vault that may stay unused rather than be copied",
    otherwise: "5",
  },
  { flags: "--max-repack <mib>", text: "copy at most so many MiB", otherwise: "no bound" },
  {
    flags: "--allow-mass-deletion",
    text: "go on even if more than half of the vault is freed",
  },
];

/**
 * Collects within the bounds of {@link collectionOptions}; a dry run changes nothing. Errors: those of
 * `Vault.collect`, ArgumentInvalid.
 */
export async function collectSpace(
  vault: Vault,
  input: CommandInput,
  { environment, isDryRun }: { readonly environment: CliEnvironment; readonly isDryRun: boolean },
): Promise<CollectionOutput> {
  const waitMinutes = input.count("wait", { min: 0, max: 100_000 }) ?? 60;
  const abandonMinutes = input.count("abandonAfter", { min: 0, max: 1_000_000 });
  const unusedPercent = input.count("maxUnused", { min: 0, max: 100 });
  const repackMib = input.count("maxRepack", { min: 0, max: 999_999_999 });
  const report = await vault.collect(
    {
      dryRun: isDryRun,
      allowMassDeletion: input.flag("allowMassDeletion"),
      waitMs: waitMinutes * minuteMs,
      abandonAfterMs: abandonMinutes === undefined ? undefined : abandonMinutes * minuteMs,
      unusedShare: unusedPercent === undefined ? undefined : unusedPercent / 100,
      repackBytesMax: repackMib === undefined ? undefined : repackMib * mib,
    },
    environment.signal,
  );
  return toOutput(report);
}

/** What a command ends with that has collected. */
export function exitOf({ end }: CollectionOutput): number {
  return end === "gave-up" || end === "fenced" ? errorRegistry.Busy.exit : 0;
}

function toOutput(report: CollectedSpace): CollectionOutput {
  const { plan } = report;
  return {
    format: outputFormat,
    kind: "collection",
    end: report.end,
    vaultBytes: plan?.vaultBytes ?? 0,
    packs: plan?.packs.length ?? 0,
    garbageBytes: plan?.garbageBytes ?? 0,
    repackedBytes: plan?.repackedBytes ?? 0,
    copiedBytes: report.copiedBytes,
    references: report.references,
    nodes: report.nodes,
    durationMs: Math.round(report.durationMs),
  };
}

const endings: Readonly<Record<CollectedSpace["end"], string>> = {
  done: "Collected",
  planned: "Would collect",
  "nothing-to-do": "Nothing to collect",
  "gave-up": "Gave up, because another backup or collection runs",
  fenced: "Gave up, because another collection took over",
};

/** For people. */
export function collectionLines(output: CollectionOutput): readonly string[] {
  return [
    `${endings[output.end]}: ${output.packs} packs, of ${formatBytes(output.vaultBytes)} in the vault.`,
    `Unneeded: ${formatBytes(output.garbageBytes)}; partly needed: ${formatBytes(output.repackedBytes)}, of which ${formatBytes(output.copiedBytes)} were copied.`,
    `Followed ${output.references} references in ${output.nodes} map nodes; took ${formatDuration(output.durationMs)}.`,
  ];
}
