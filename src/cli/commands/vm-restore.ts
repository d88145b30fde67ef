import { resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import type { ImageFormat } from "#ports/source-image.ts";
import { toVmItemId } from "#protect/backup-vm.ts";
import { readChosenPoint } from "#protect/points.ts";
import { restoreVm } from "#protect/restore-vm.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { pointExits, targetExits, vaultExits } from "#cli/exit-codes.ts";
import { printable } from "#cli/format.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import {
  fromOption,
  keyOptions,
  outputOption,
  pointOption,
  secondaryOption,
  storeOption,
  workOptions,
} from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";
import { restoreLines, targetsInFolder, toRestoreOutput } from "#cli/restore-points.ts";

/** `kluis vm restore`. */
export const vmRestore: CommandSpec = {
  words: ["vm", "restore"],
  summary: "restore a VM of a recovery point as a new VM",
  description:
    "Writes all disks of a recovery point into a folder and, last, a description file that `kluis vm start --vm` " +
    "starts. The VM that was backed up is not touched.",
  arguments: [{ name: "vm", text: "id of the VM, or of the protected item", required: true }],
  options: [
    storeOption,
    secondaryOption,
    fromOption,
    ...keyOptions,
    { flags: "--directory <dir>", text: "existing folder for the new VM", required: true },
    pointOption,
    { flags: "--name <name>", text: "name of the new VM", otherwise: "as it was" },
    {
      flags: "--target-format <format>",
      text: "format of the disks",
      choices: ["raw", "qcow2"],
      otherwise: "qcow2",
    },
    ...workOptions,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vm restore web --directory /srv/vms/web2 --name web2 --store /srv/vault --key-file /etc/kluis/key",
      text: "The newest recovery point as a second VM.",
    },
  ],
  exits: [...vaultExits, ...pointExits, ...targetExits],
  outputKind: "restore",
  run: runVmRestore,
};

async function runVmRestore(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const form = outputFormOf(input);
  const images = await environment.drivers.openImages();
  const configurations = await environment.drivers.openConfigurations();
  await using session = await openVaultSession(input, environment, { intent: "read" });
  const point = await readPointOfVm(input, session.vault, environment);
  await using display = new ProgressDisplay({ ...environment, form });
  const { outcome, configuration } = await restoreVm(
    point,
    readRequest(input, environment, point),
    {
      vault: session.vault,
      images,
      configurations,
      clock: environment.clock,
      signal: environment.signal,
      onProgress: (progress) => display.update({ ...progress, doing: "restoring" }),
    },
  );
  await display[Symbol.asyncDispose]();
  printResult(environment, form, {
    document: toRestoreOutput(outcome, configuration),
    lines: [
      ...restoreLines(outcome),
      `Start it with: kluis vm start --vm ${printable(configuration)}`,
    ],
  });
  return 0;
}

async function readPointOfVm(
  input: CommandInput,
  vault: Vault,
  environment: CliEnvironment,
): Promise<RecoveryPoint> {
  const text = input.requiredArgument(0, "vm");
  const asVm = await vault.listPoints(toVmItemId(text), environment.signal);
  const itemId = asVm.length > 0 ? toVmItemId(text) : text;
  const pointId = input.text("point");
  const choice = { itemId, ...(pointId === undefined ? {} : { pointId }) };
  return await readChosenPoint(vault, choice, environment.signal);
}

function readRequest(input: CommandInput, environment: CliEnvironment, point: RecoveryPoint) {
  const { vmConfiguration } = point;
  if (vmConfiguration === undefined) {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot restore a VM: recovery point ${point.pointId} is of an image; use kluis image restore`,
    );
  }
  const directory = resolve(environment.workingFolder, input.requiredText("directory"));
  const format: ImageFormat = input.text("targetFormat") === "raw" ? "raw" : "qcow2";
  const name = input.text("name");
  return {
    directory,
    targets: targetsInFolder(point.disks, directory, format),
    configuration: vmConfiguration,
    ...(name === undefined ? {} : { name }),
  };
}
