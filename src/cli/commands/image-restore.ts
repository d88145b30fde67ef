import { KluisError } from "#base/kluis-error.ts";
import { readChosenPoint } from "#protect/points.ts";
import { fromVault, prepareRestore } from "#protect/restore.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { pointExits, targetExits, vaultExits } from "#cli/exit-codes.ts";
import { findItemId, toPlace } from "#cli/item-id.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import {
  fromOption,
  keyOptions,
  outputOption,
  overwriteOption,
  plaintextOption,
  pointOption,
  secondaryOption,
  storeOption,
  targetFormatOption,
  workOptions,
} from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import {
  restoreLines,
  restoreWithProgress,
  targetFormatOf,
  toRestoreOutput,
} from "#cli/restore-points.ts";

/** `kluis image restore`. */
export const imageRestore: CommandSpec = {
  words: ["image", "restore"],
  summary: "restore a disk of a recovery point to an image, a device or an NBD export",
  description:
    "Writes one disk of a recovery point: to a new raw or qcow2 file, sparse, which gets its name when it is " +
    "complete and durable; or, with --overwrite, to a device or NBD export in place. Every block is decrypted " +
    "and its id checked before it is written.",
  arguments: [
    { name: "item", text: "id of the protected item, or path of its image", required: true },
    { name: "target", text: "path of the new image, device, or NBD URI", required: true },
  ],
  options: [
    storeOption,
    secondaryOption,
    fromOption,
    ...keyOptions,
    pointOption,
    { flags: "--disk <name>", text: "which disk, where the recovery point has several" },
    targetFormatOption,
    overwriteOption,
    plaintextOption,
    ...workOptions,
    outputOption,
  ],
  examples: [
    {
      line: "kluis image restore disk.qcow2 restored.qcow2 --store /srv/vault --secondary /mnt/second --from secondary --key-file /etc/kluis/key",
      text: "The newest recovery point that the secondary has; the primary is not asked.",
    },
    {
      line: "kluis image restore disk.qcow2 restored.qcow2 --store /srv/vault --key-file /etc/kluis/key",
      text: "The newest recovery point.",
    },
    {
      line: "kluis image restore vm:web vda.raw --disk vda --point 019ab3c0f8d2-7c1f0a9b3d5e4f60 --store /srv/vault --key-file key",
      text: "One disk of a VM as it was at a certain point.",
    },
  ],
  exits: [...vaultExits, ...pointExits, ...targetExits],
  outputKind: "restore",
  run: runImageRestore,
};

async function runImageRestore(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const form = outputFormOf(input);
  const { signal } = environment;
  const images = await environment.drivers.openImages();
  const target = input.requiredArgument(1, "target");
  const place = toPlace(target, images.isUri(target), environment);
  await using session = await openVaultSession(input, environment, {
    intent: "read",
    startThread: "reading",
  });
  const { vault } = session;
  const itemId = await findItemId(vault, input.requiredArgument(0, "item"), environment);
  const pointId = input.text("point");
  const point = await readChosenPoint(
    vault,
    { itemId, ...(pointId === undefined ? {} : { pointId }) },
    signal,
  );
  const diskName = input.text("disk") ?? onlyDiskOf(point);
  const format = targetFormatOf(input, place);
  const request = {
    targets: [{ diskName, place, format }],
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

function onlyDiskOf(point: RecoveryPoint): string {
  const [disk, ...others] = point.disks;
  if (disk !== undefined && others.length === 0) return disk.name;
  const names = point.disks.map(({ name }) => name).join(", ");
  throw new KluisError(
    "ArgumentInvalid",
    `Cannot choose a disk: recovery point ${point.pointId} has several (${names}), name one with --disk`,
  );
}
