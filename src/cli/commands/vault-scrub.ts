import { outputFormat, type ScrubOutput } from "#contract/cli-output.ts";
import { type ScrubReport, scrubVault } from "#vault/scrub.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { formatBytes, formatDuration, formatTime, printable } from "#cli/format.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { unlockStore } from "#cli/open-vault.ts";
import { keyOptions, outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";
import { exitOfVerdict } from "#cli/verify-points.ts";

const depths = ["objects", "full"] as const;
/** Objects that a table shows. */
const objectsShown = 20;
const mebibyte = 1024 * 1024;

/** `kluis vault scrub`. */
export const vaultScrub: CommandSpec = {
  words: ["vault", "scrub"],
  summary: "check a part of the vault, from where the last scrub ended",
  description:
    "Reads objects in the order of their names and compares each with its name, until a budget is spent, and notes " +
    "in the vault what was checked when and what is damaged. The next run of any host goes on there, and the next " +
    "backup heals what was found. With --depth full each frame is decrypted and each block compared with its id as " +
    "well; each depth remembers where it was. Exit code 0: sound; 14: damaged or missing; 12: something could not be read just now.",
  arguments: [],
  options: [
    storeOption,
    ...keyOptions,
    {
      flags: "--depth <depth>",
      text: "objects: every object by its name; full: every frame and block in it as well",
      choices: depths,
      otherwise: "objects",
    },
    { flags: "--budget-mib <count>", text: "stop after so many MiB", otherwise: "all objects" },
    { flags: "--budget-seconds <count>", text: "stop after this time", otherwise: "no limit" },
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault scrub --store /srv/vault --key-file /etc/kluis/key --budget-seconds 1800",
      text: "Half an hour of checking, every night.",
    },
    {
      line: "kluis vault scrub --store /srv/vault --key-file /etc/kluis/key --depth full --budget-mib 65536",
      text: "64 GiB decrypted and compared block by block, every Sunday.",
    },
  ],
  exits: vaultExits,
  outputKind: "scrub",
  run: runVaultScrub,
};

async function runVaultScrub(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { clock, signal } = environment;
  const mib = input.count("budgetMib", { min: 1, max: 999_999_999 });
  const seconds = input.count("budgetSeconds", { min: 1, max: 999_999_999 });
  const form = outputFormOf(input);
  const { store, files } = await unlockStore(input, environment, { intent: "read" });
  await using display = new ProgressDisplay({ ...environment, form });
  const report = await scrubVault({
    store,
    keys: files.keys,
    clock,
    signal,
    depth: depths.find((depth) => depth === input.text("depth")),
    budget: {
      bytes: mib === undefined ? Infinity : mib * mebibyte,
      durationMs: seconds === undefined ? Infinity : seconds * 1000,
    },
    onProgress: (doneBytes, totalBytes) =>
      display.update({ disk: "vault", doing: "scrubbing", doneBytes, totalBytes }),
  });
  await display[Symbol.asyncDispose]();
  const { oldestAtMs, ...figures } = report;
  const document: ScrubOutput = {
    format: outputFormat,
    kind: "scrub",
    ...figures,
    ...(oldestAtMs === undefined ? {} : { oldestCheckedAt: new Date(oldestAtMs).toISOString() }),
    durationMs: Math.round(report.durationMs),
  };
  printResult(environment, form, { document, lines: toLines(report) });
  return exitOfVerdict[report.verdict];
}

function toLines(report: ScrubReport): readonly string[] {
  const { badObjects, badObjectsOmitted, neverChecked, oldestAtMs, depth, blocksChecked } = report;
  const shown = badObjects.slice(0, objectsShown);
  const more = badObjects.length - shown.length + badObjectsOmitted;
  const oldest =
    oldestAtMs === undefined ? "" : `; the oldest check is of ${formatTime(oldestAtMs)}`;
  return [
    ...shown.map(
      ({ name, verdict, reason }) => `${verdict} object ${printable(name)}: ${printable(reason)}`,
    ),
    ...(more === 0 ? [] : [`and ${more} more objects`]),
    `${report.objectsChecked} of ${report.objectsListed} objects checked, ${formatBytes(report.bytesRead)} of ${formatBytes(report.bytesListed)} read in ${formatDuration(report.durationMs)}`,
    ...(depth === "full" ? [`${blocksChecked} blocks and map nodes compared with their ids`] : []),
    `${neverChecked} objects were never checked${depth === "full" ? " in full" : ""} (${formatBytes(report.neverCheckedBytes)})${oldest}`,
  ];
}
