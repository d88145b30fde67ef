import { type CollectionOutput, outputFormat } from "#contract/cli-output.ts";
import type { CollectedSpace } from "#vault/vault.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { errorRegistry } from "#base/error-codes.ts";
import { pointExits, vaultExits } from "#cli/exit-codes.ts";
import { formatBytes, formatDuration } from "#cli/format.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import { keyOptions, outputOption, storeOption, workOptions } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

const mib = 1024 * 1024;
const minuteMs = 60 * 1000;

/** `kluis vault collect`. */
export const vaultCollect: CommandSpec = {
  words: ["vault", "collect"],
  summary: "free the space of deleted recovery points",
  description:
    "Removes packs that no recovery point needs, and copies what is still needed out of packs that are mostly " +
    "unused. Backups, restores and other collections may run meanwhile, on any host. Backups that run are " +
    "waited for; one that gave no sign of life for two hours is ended, and has to be run again if it still " +
    "lives. Exit code 34: somebody was at work for longer than it was to wait; nothing was removed.",
  arguments: [],
  options: [
    storeOption,
    ...keyOptions,
    { flags: "--dry-run", text: "say what would be freed, and change nothing" },
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
    ...workOptions,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault collect --store /srv/vault --key-file /etc/kluis/key",
      text: "Once a day, after `kluis vault prune`.",
    },
    {
      line: "kluis vault collect --store /srv/vault --key-file /etc/kluis/key --dry-run",
      text: "What would it free?",
    },
  ],
  exits: [...vaultExits, ...pointExits, errorRegistry.Busy.exit],
  outputKind: "collection",
  run: runVaultCollect,
};

async function runVaultCollect(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const waitMinutes = input.count("wait", { min: 0, max: 100_000 }) ?? 60;
  const abandonMinutes = input.count("abandonAfter", { min: 0, max: 1_000_000 });
  const unusedPercent = input.count("maxUnused", { min: 0, max: 100 });
  const repackMib = input.count("maxRepack", { min: 0, max: 999_999_999 });
  await using session = await openVaultSession(input, environment, { intent: "remove" });
  const report = await session.vault.collect(
    {
      dryRun: input.flag("dryRun"),
      allowMassDeletion: input.flag("allowMassDeletion"),
      waitMs: waitMinutes * minuteMs,
      abandonAfterMs: abandonMinutes === undefined ? undefined : abandonMinutes * minuteMs,
      unusedShare: unusedPercent === undefined ? undefined : unusedPercent / 100,
      repackBytesMax: repackMib === undefined ? undefined : repackMib * mib,
    },
    environment.signal,
  );
  const document = toOutput(report);
  printResult(environment, outputFormOf(input), { document, lines: toLines(document) });
  return report.end === "gave-up" || report.end === "fenced" ? errorRegistry.Busy.exit : 0;
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

function toLines(output: CollectionOutput): readonly string[] {
  return [
    `${endings[output.end]}: ${output.packs} packs, of ${formatBytes(output.vaultBytes)} in the vault.`,
    `Unneeded: ${formatBytes(output.garbageBytes)}; partly needed: ${formatBytes(output.repackedBytes)}, of which ${formatBytes(output.copiedBytes)} were copied.`,
    `Followed ${output.references} references in ${output.nodes} map nodes; took ${formatDuration(output.durationMs)}.`,
  ];
}
