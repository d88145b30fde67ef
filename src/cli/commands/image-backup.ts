import { resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import { EndedTogether } from "#base/ended-together.ts";
import { valueOf } from "#base/settled.ts";
import type { SourceImageOptions } from "#ports/source-image.ts";
import { backupImage, type ImageBackupRequest } from "#protect/backup-image.ts";
import { checkPointId } from "#vault/recovery-point.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { pointExits, sourceExits, vaultExits } from "#cli/exit-codes.ts";
import { toImageItemId } from "#cli/item-id.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import {
  keyOptions,
  outputOption,
  storeOption,
  verifyBeforeCommitOption,
  workOptions,
} from "#cli/options.ts";
import { outputFormOf } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";
import { phaseWords, printBackup } from "#cli/render-backup.ts";

/** `kluis image backup`. */
export const imageBackup: CommandSpec = {
  words: ["image", "backup"],
  summary: "write a recovery point of a disk image or NBD export",
  description:
    "Reads a raw or qcow2 image, or an NBD export, and commits a recovery point of it. After the first one " +
    "only changes are stored: those that a qcow2 overlay of 4 KiB subclusters names, where the image below it " +
    "is the one of the last recovery point; those of a dirty bitmap; else those that a comparison by checksum finds.",
  arguments: [
    { name: "image", text: "path of the image, or nbd:// or nbd+unix:// URI", required: true },
  ],
  options: [
    storeOption,
    ...keyOptions,
    {
      flags: "--item <id>",
      text: "id of the protected item",
      otherwise: "the absolute path or the URI",
    },
    {
      flags: "--format <format>",
      text: "format of the image; name it for raw images, whose guests can make them look like qcow2",
      choices: ["raw", "qcow2"],
      otherwise: "told from its content",
    },
    {
      flags: "--bitmap <name>",
      text: "dirty bitmap of the NBD server that holds every change since the base point",
    },
    {
      flags: "--since <id>",
      text: "recovery point since which the bitmap records",
      otherwise: "the newest",
    },
    ...workOptions,
    verifyBeforeCommitOption,
    outputOption,
  ],
  examples: [
    {
      line: "kluis image backup disk.qcow2 --store /srv/vault --key-file /etc/kluis/key",
      text: "First time: everything; after that: what changed.",
    },
    {
      line: "kluis image backup 'nbd+unix:///disk?socket=/run/nbd.sock' --store /srv/vault --item db --bitmap kluis",
      text: "An export with a dirty bitmap, as item db; the passphrase is in KLUIS_PASSPHRASE.",
    },
  ],
  exits: [...vaultExits, ...pointExits, ...sourceExits],
  outputKind: "backup",
  run: runImageBackup,
};

async function runImageBackup(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const form = outputFormOf(input);
  const images = await environment.drivers.openImages();
  const text = input.requiredArgument(0, "image");
  const isUri = images.isUri(text);
  const options = readSourceOptions(input, isUri);
  const place = isUri ? text : resolve(environment.workingFolder, text);
  const itemId = toImageItemId({ place, isUri }, input.text("item"));
  await using owned = new EndedTogether();
  const opening = images.openSource(place, options.source, environment.signal);
  const [opened, unlocked] = await Promise.allSettled([
    opening,
    openVaultSession(input, environment, { intent: "add", startThread: "writing" }),
  ]);
  if (unlocked.status === "fulfilled") owned.use(unlocked.value);
  if (opened.status === "fulfilled") owned.use(opened.value);
  const session = valueOf(unlocked);
  const image = valueOf(opened);
  await using display = new ProgressDisplay({ ...environment, form });
  const outcome = await backupImage(
    image,
    { itemId, itemName: itemId, ...options.request },
    {
      vault: session.vault,
      clock: environment.clock,
      random: environment.random,
      signal: environment.signal,
      onProgress: (progress) => display.update({ ...progress, doing: phaseWords[progress.phase] }),
    },
  );
  await display[Symbol.asyncDispose]();
  printBackup(environment, form, { outcome, session });
  return 0;
}

function readSourceOptions(
  input: CommandInput,
  isUri: boolean,
): {
  readonly source: SourceImageOptions;
  readonly request: Pick<ImageBackupRequest, "bitmapSince">;
} {
  const format = input.text("format");
  const bitmap = input.text("bitmap");
  const since = input.text("since");
  if (bitmap !== undefined && !isUri) {
    throw new KluisError("ArgumentInvalid", "Cannot use --bitmap: the image is no NBD export");
  }
  if (since !== undefined && bitmap === undefined) {
    throw new KluisError("ArgumentInvalid", "Cannot use --since: it needs --bitmap");
  }
  if (format !== undefined && isUri) {
    throw new KluisError("ArgumentInvalid", "Cannot use --format: an NBD export has none");
  }
  return {
    source: {
      ...(format === "raw" || format === "qcow2" ? { format } : {}),
      ...(bitmap === undefined ? {} : { bitmap }),
    },
    request: since === undefined ? {} : { bitmapSince: checkPointId(since) },
  };
}
