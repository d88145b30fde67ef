import { type CollectionOutput, outputFormat, type PruneOutput } from "#contract/cli-output.ts";
import { errorRegistry } from "#base/error-codes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { applyPruning, type ItemPruning, planPruning } from "#protect/prune.ts";
import type { Vault } from "#vault/vault.ts";
import { collectionLines, collectionOptions, collectSpace, exitOf } from "#cli/collect-space.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { lockExits, pointExits, vaultExits } from "#cli/exit-codes.ts";
import { formatTable, formatTime, printable } from "#cli/format.ts";
import { findItemId } from "#cli/item-id.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import { itemOption, keyOptions, outputOption, storeOption, workOptions } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

const periods = ["last", "daily", "weekly", "monthly", "yearly"] as const;
const keepMax = 100_000;

/** `kluis vault prune`. */
export const vaultPrune: CommandSpec = {
  words: ["vault", "prune"],
  summary: "delete recovery points that no rule keeps",
  description:
    "Deletes, item by item, every recovery point that none of the rules keeps. The newest point of an item is " +
    "always kept; where one is dated in the future, nothing is deleted. Days, weeks, months and years are those of UTC. The space is freed by `kluis vault collect`, or at once with --collect.",
  arguments: [],
  options: [
    storeOption,
    ...keyOptions,
    { flags: "--keep-last <count>", text: "keep the newest points" },
    { flags: "--keep-daily <count>", text: "keep the newest point of so many days" },
    { flags: "--keep-weekly <count>", text: "keep the newest point of so many weeks" },
    { flags: "--keep-monthly <count>", text: "keep the newest point of so many months" },
    { flags: "--keep-yearly <count>", text: "keep the newest point of so many years" },
    itemOption,
    { flags: "--dry-run", text: "say what would be deleted, and change nothing" },
    { flags: "--collect", text: "free the space then, as `kluis vault collect` does" },
    ...collectionOptions.map((option) => ({ ...option, text: `with --collect: ${option.text}` })),
    ...workOptions,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault prune --store /srv/vault --key-file /etc/kluis/key --keep-daily 14 --keep-monthly 12 --collect",
      text: "Once a day, after the backups.",
    },
    {
      line: "kluis vault prune --store /srv/vault --key-file /etc/kluis/key --keep-daily 14 --keep-monthly 12 --dry-run",
      text: "What would go?",
    },
  ],
  exits: [...vaultExits, ...pointExits, ...lockExits, errorRegistry.Busy.exit],
  outputKind: "prune",
  run: runVaultPrune,
};

async function runVaultPrune(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const isDryRun = input.flag("dryRun");
  const isCollecting = input.flag("collect");
  if (isDryRun && isCollecting) {
    throw new KluisError(
      "ArgumentInvalid",
      "Cannot collect what a dry run does not delete: leave out --dry-run or --collect",
    );
  }
  await using session = await openVaultSession(input, environment, {
    intent: "remove",
    withoutIndex: !isCollecting,
  });
  const { vault } = session;
  const items = await planItems(vault, input, environment);
  if (!isDryRun) await applyPruning(vault, items, environment.signal);
  const collection = isCollecting
    ? await collectSpace(vault, input, { environment, isDryRun })
    : undefined;
  const document = toOutput(items, isDryRun, collection);
  printResult(environment, outputFormOf(input), { document, lines: toLines(document) });
  return collection === undefined ? 0 : exitOf(collection);
}

async function planItems(
  vault: Vault,
  input: CommandInput,
  environment: CliEnvironment,
): Promise<readonly ItemPruning[]> {
  const keep = (name: string): number | undefined => input.count(name, { min: 0, max: keepMax });
  const rules = {
    last: keep("keepLast"),
    daily: keep("keepDaily"),
    weekly: keep("keepWeekly"),
    monthly: keep("keepMonthly"),
    yearly: keep("keepYearly"),
  } satisfies Record<(typeof periods)[number], number | undefined>;
  const item = input.text("item");
  return planPruning(vault, rules, {
    signal: environment.signal,
    nowMs: environment.clock.nowMs(),
    ...(item === undefined ? {} : { itemId: await findItemId(vault, item, environment) }),
  });
}

function toOutput(
  items: readonly ItemPruning[],
  isDryRun: boolean,
  collection: CollectionOutput | undefined,
): PruneOutput {
  return {
    format: outputFormat,
    kind: "prune",
    isDryRun,
    points: items.flatMap(({ itemId, choices }) =>
      choices.map(({ point, keptBy }) => ({
        itemId,
        id: point.pointId,
        takenAt: new Date(point.takenAtMs).toISOString(),
        keptBy,
      })),
    ),
    ...(collection === undefined ? {} : { collection }),
  };
}

function toLines({ points, isDryRun, collection }: PruneOutput): readonly string[] {
  const deleted = points.filter(({ keptBy }) => keptBy.length === 0).length;
  const rows = points.map(({ itemId, id, takenAt, keptBy }) => [
    printable(itemId),
    id,
    formatTime(Date.parse(takenAt)),
    keptBy.length === 0 ? "delete" : `keep (${keptBy.join(", ")})`,
  ]);
  const columns = ["ITEM", "RECOVERY POINT", "TAKEN", "WHAT"].map((head) => ({ head }));
  const verb = isDryRun ? "Would delete" : "Deleted";
  return [
    ...formatTable(columns, rows),
    `${verb} ${deleted} of ${points.length} recovery points.`,
    ...(collection === undefined ? [] : collectionLines(collection)),
  ];
}
