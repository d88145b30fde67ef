import { outputFormat, type RepairOutput } from "#contract/cli-output.ts";
import { type RepairReport, repairVault } from "#vault/repair.ts";
import { rereadKeys } from "#vault/vault-files.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import { keyOptions, outputOption, storeOption, workOptions } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";
import { depthOf, depthOption } from "#cli/verify-depth.ts";
import { exitOfVerdict, toVerifyOutput, verifyLines } from "#cli/verify-points.ts";

/** `kluis vault repair`. */
export const vaultRepair: CommandSpec = {
  words: ["vault", "repair"],
  summary: "rebuild what can be rebuilt, and say exactly what is lost",
  description:
    "Builds index segments again from the packs where they are lost, brings the inventory up to date, notes damage " +
    "so that the next backup heals what the disks still have, and names every recovery point and range of a disk " +
    "that cannot be restored now. It removes no pack and no recovery point. In an immutable vault a damaged object " +
    "stays until its lock ends: nothing builds on it or misses it. " +
    "Exit code 0: everything can be restored; 14: something cannot; 12: something could not be read just now.",
  arguments: [],
  options: [
    storeOption,
    ...keyOptions,
    { flags: "--dry-run", text: "change nothing, and say what would be done" },
    {
      flags: "--accept-loss",
      text: "no longer expect objects that are missing, recovery points among them",
    },
    depthOption,
    ...workOptions,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault repair --store /srv/vault --key-file /etc/kluis/key --dry-run",
      text: "What is lost, and what would be rebuilt.",
    },
  ],
  exits: [...vaultExits, 34],
  outputKind: "repair",
  run: runVaultRepair,
};

async function runVaultRepair(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { clock, random, signal } = environment;
  const depth = depthOf(input);
  const form = outputFormOf(input);
  await using session = await openVaultSession(input, environment, { intent: "add" });
  await using display = new ProgressDisplay({ ...environment, form });
  const report = await repairVault({
    store: session.store,
    keys: session.files.keys,
    vault: session.vault,
    rereadKeys: () => rereadKeys(session.store, session.files, signal),
    clock,
    random,
    signal,
    isDryRun: input.flag("dryRun"),
    acceptLoss: input.flag("acceptLoss"),
    ...(depth === undefined ? {} : { depth }),
    onProgress: (doneBytes, totalBytes) =>
      display.update({ disk: "vault", doing: "verifying", doneBytes, totalBytes }),
  });
  await display[Symbol.asyncDispose]();
  const { verify, ...figures } = report;
  const document: RepairOutput = {
    format: outputFormat,
    kind: "repair",
    ...figures,
    verify: toVerifyOutput(verify),
  };
  printResult(environment, form, { document, lines: toLines(report) });
  return exitOfVerdict[verify.pointsVerdict];
}

function toLines(report: RepairReport): readonly string[] {
  const { packsIndexed, packsUnusable, segmentsDropped, inventoryAdded, inventoryRemoved } = report;
  const doing = report.isDryRun ? "Would be repaired" : "Repaired";
  return [
    ...verifyLines(report.verify),
    "",
    `${doing}: ${packsIndexed} packs indexed again (${packsUnusable} cannot be), ${segmentsDropped} damaged index segments replaced,`,
    `  ${inventoryAdded} objects added to the inventory, ${inventoryRemoved} missing ones dropped from it, ${report.findingsLifted} findings lifted`,
    ...(report.pointsKept === 0 ? [] : [keptLine(report.pointsKept)]),
    ...report.lockedObjects.map((name) => `Locked, and stays until its lock ends: ${name}`),
  ];
}

function keptLine(points: number): string {
  return `  ${points} recovery points exist again, since their deletion marks are damaged: delete them again, or keep them`;
}
