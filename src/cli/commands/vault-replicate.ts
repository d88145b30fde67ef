import { replicateAndPrune, replicateVault } from "#vault/replicate.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { pointExits, vaultExits } from "#cli/exit-codes.ts";
import { cacheDirectoryOf, unlockStore } from "#cli/open-vault.ts";
import {
  cacheOption,
  keyOptions,
  outputOption,
  secondaryOption,
  storeOption,
} from "#cli/options.ts";
import { runCopy } from "#cli/copy-vault.ts";

/** `kluis vault replicate`. */
export const vaultReplicate: CommandSpec = {
  words: ["vault", "replicate"],
  summary: "bring a secondary up to the vault",
  description:
    "Copies what the secondary lacks of the vault, checked on the way; adds only and overwrites nothing. The " +
    "secondary is an empty place at first, and can be restored from at any time, up to some recovery point. A run " +
    "that broke off is gone on with by the next one. Deletions travel with --prune alone: it deletes in the " +
    "secondary the recovery points that the primary has deleted for certain, and frees what the primary no longer " +
    "has and no point of the secondary needs. Exit code 14: something is damaged, " +
    "and what needs it was held back; everything else was copied.",
  arguments: [],
  options: [
    storeOption,
    { ...secondaryOption, required: true },
    ...keyOptions,
    {
      flags: "--prune",
      text: "delete in the secondary, too, what the primary has deleted and collected",
    },
    {
      flags: "--allow-mass-deletion",
      text: "with --prune: go on even if more than half of the secondary goes",
    },
    cacheOption,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault replicate --store /srv/vault --secondary /mnt/second --key-file /etc/kluis/key",
      text: "From a timer, after the backups.",
    },
    {
      line: "kluis vault replicate --store /srv/vault --secondary /mnt/second --key-file /etc/kluis/key --prune",
      text: "Once a week, after `kluis vault collect`.",
    },
  ],
  exits: [...vaultExits, ...pointExits, 34],
  outputKind: "copy",
  run: runReplicate,
};

async function runReplicate(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { store: primary, files } = await unlockStore(input, environment, { intent: "read" });
  const place = input.requiredText("secondary");
  const secondary = await environment.drivers.openStore(place, { create: true, isCopy: true });
  const cacheDirectory = cacheDirectoryOf(input, environment, files);
  const stores = { primary, secondary, keys: files.keys, cacheDirectory };
  return await runCopy(input, environment, {
    stores,
    copy: async (options) => {
      const limits = { allowMassDeletion: input.flag("allowMassDeletion") };
      const report = input.flag("prune")
        ? await replicateAndPrune(options, limits)
        : await replicateVault(options);
      return { ...report, isSecondary: true };
    },
  });
}
