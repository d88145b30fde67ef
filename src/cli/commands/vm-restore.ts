import { resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import type { ImageFormat } from "#ports/source-image.ts";
import { present } from "#base/assert.ts";
import { fromSnapshotDisks, fromVault, type OpenDisk } from "#protect/restore.ts";
import { restoreVm } from "#protect/restore-vm.ts";
import { chooseTieredPoint, type TieredPoint, tiersOf } from "#protect/vm-points.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { pointExits, targetExits, vaultExits, vmExits } from "#cli/exit-codes.ts";
import { printable } from "#cli/format.ts";
import { openTiers, type OpenTiers } from "#cli/open-tiers.ts";
import {
  fromOption,
  keyOptions,
  outputOption,
  pointOption,
  secondaryOption,
  optionalStoreOption,
  vmOptions,
  workOptions,
} from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";
import { toTieredPointOutput } from "#cli/render-job.ts";
import {
  restoreLines,
  targetsInFolder,
  toRestoredOutput,
  toRestoreOutput,
} from "#cli/restore-points.ts";

/** `kluis vm restore`. */
export const vmRestore: CommandSpec = {
  words: ["vm", "restore"],
  summary: "restore a VM of a recovery point as a new VM",
  description:
    "Writes all disks of a recovery point into a folder and, last, a description file that `kluis vm start --vm` " +
    "starts; with --connect it is defined in that libvirt, with a UUID and MAC addresses of its own where it gets a " +
    "name. The VM that was backed up is not touched, and may run. With --vm, --vms or --connect the snapshots of this " +
    "host are used, which needs no vault and takes minutes; with --store a vault; with both, the snapshot " +
    "where the point has one.",
  arguments: [{ name: "vm", text: "id of the VM, or of the protected item", required: true }],
  options: [
    ...vmOptions,
    optionalStoreOption,
    secondaryOption,
    fromOption,
    ...keyOptions,
    { flags: "--directory <dir>", text: "existing folder for the new VM", required: true },
    pointOption,
    {
      flags: "--tier <tier>",
      text: "where to restore from",
      choices: ["snapshot", "vault"],
      otherwise: "the snapshot where it is there, else the vault",
    },
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
    {
      line: "kluis vm restore web --directory /srv/vms/web2 --name web2 --vms /etc/kluis/vms",
      text: "The newest snapshot, without a vault.",
    },
  ],
  exits: [...vaultExits, ...pointExits, ...targetExits, ...vmExits],
  outputKind: "restore",
  run: runVmRestore,
};

async function runVmRestore(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const form = outputFormOf(input);
  const { signal } = environment;
  const images = await environment.drivers.openImages();
  const connect = input.text("connect");
  const configurations = await environment.drivers.openConfigurations(connect);
  await using tiers = await openTiers(input, environment);
  const pointId = input.text("point");
  const wanted = input.text("tier");
  const point = chooseTieredPoint(tiers.listing, {
    itemId: tiers.itemId,
    ...(pointId === undefined ? {} : { pointId }),
    ...(wanted === "snapshot" || wanted === "vault" ? { tier: wanted } : {}),
  });
  const tier = wanted ?? tiersOf(point)[0] ?? "vault";
  await using display = new ProgressDisplay({ ...environment, form });
  const { outcome, configuration } = await restoreVm(
    point,
    readRequest(input, environment, point),
    {
      openDisk: sourceOf(point, tier, tiers),
      images,
      configurations,
      clock: environment.clock,
      signal,
      onProgress: (progress) => display.update({ ...progress, doing: "restoring" }),
    },
  );
  await display[Symbol.asyncDispose]();
  const { manifest } = point;
  const shown =
    tier === "vault" && manifest !== undefined
      ? toRestoreOutput(manifest, outcome)
      : { ...toRestoredOutput(outcome), point: toTieredPointOutput(point), tier };
  printResult(environment, form, {
    document: { ...shown, configuration },
    lines: [
      ...restoreLines(point, outcome),
      connect === undefined
        ? `Out of its ${tier}. Start it with: kluis vm start --vm ${printable(configuration)}`
        : `Out of its ${tier}. libvirt has it; its XML is ${printable(configuration)}`,
    ],
  });
  return 0;
}

/** Readers of the snapshot hold it: it cannot go before the restore has ended. */
function sourceOf(point: TieredPoint, tier: string, { vault }: OpenTiers): OpenDisk {
  const { snapshot, manifest } = point;
  if (tier === "vault") {
    const known = present(manifest, "a point in tier vault has a manifest");
    return fromVault(present(vault, "who has a manifest has its vault"), known);
  }
  return fromSnapshotDisks(present(snapshot, "a point in tier snapshot has one"));
}

function readRequest(input: CommandInput, environment: CliEnvironment, point: TieredPoint) {
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
