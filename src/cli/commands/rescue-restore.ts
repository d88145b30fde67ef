import { resolve } from "node:path";

import { chooseDisks } from "#protect/plan-restore.ts";
import { readChosenPoint } from "#protect/points.ts";
import { fromVault, prepareRestore } from "#protect/restore.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { pointExits, targetExits, vaultExits } from "#cli/exit-codes.ts";
import { findItemId } from "#cli/item-id.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import {
  diskOption,
  outputOption,
  overwriteOption,
  plaintextOption,
  pointOption,
  recoveryKeyOption,
  storeOption,
} from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import {
  restoreLines,
  restoreWithProgress,
  targetsInFolder,
  toRestoreOutput,
} from "#cli/restore-points.ts";

/** `kluis rescue restore`. */
export const rescueRestore: CommandSpec = {
  words: ["rescue", "restore"],
  summary: "restore disks with nothing but the store and the recovery key",
  description:
    "Writes the disks of a recovery point, all or those named, as images into a folder: DISK.raw or DISK.qcow2. " +
    "Needs no cache, no configuration and nothing of the host that made the backup.",
  arguments: [{ name: "item", text: "id of the protected item, or its path", required: true }],
  options: [
    storeOption,
    recoveryKeyOption,
    { flags: "--directory <dir>", text: "existing folder for the images", required: true },
    pointOption,
    diskOption,
    {
      flags: "--target-format <format>",
      text: "format of the images",
      choices: ["raw", "qcow2"],
      otherwise: "raw",
    },
    overwriteOption,
    plaintextOption,
    outputOption,
  ],
  examples: [
    {
      line: "kluis rescue restore vm:web --store /mnt/vault --recovery-key-file - --directory /var/tmp/web",
      text: "All disks of the newest recovery point of a VM, raw.",
    },
  ],
  exits: [...vaultExits, ...pointExits, ...targetExits],
  outputKind: "restore",
  run: runRescueRestore,
};

async function runRescueRestore(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const form = outputFormOf(input);
  const { signal } = environment;
  const images = await environment.drivers.openImages();
  await using session = await openVaultSession(input, environment, {
    intent: "rescue",
    startThread: "reading",
  });
  const { vault } = session;
  const itemId = await findItemId(vault, input.requiredArgument(0, "item"), environment);
  const pointId = input.text("point");
  const choice = { itemId, ...(pointId === undefined ? {} : { pointId }) };
  const point = await readChosenPoint(vault, choice, signal);
  const directory = resolve(environment.workingFolder, input.requiredText("directory"));
  const format = input.text("targetFormat") === "qcow2" ? "qcow2" : "raw";
  const targets = targetsInFolder(chooseDisks(point, input.texts("disk")), directory, format);
  const request = {
    targets,
    overwrite: input.flag("overwrite"),
    isPlaintextMeant: input.flag("plaintext"),
  };
  const plan = await prepareRestore(point, request, { images, signal });
  const outcome = await restoreWithProgress(plan, environment, {
    openDisk: fromVault(vault, point),
    images,
    form,
  });
  printResult(environment, form, {
    document: toRestoreOutput(point, outcome),
    lines: restoreLines(point, outcome),
  });
  return 0;
}
