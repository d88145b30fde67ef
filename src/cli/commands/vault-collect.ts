import { collectionLines, collectionOptions, collectSpace, exitOf } from "#cli/collect-space.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { errorRegistry } from "#base/error-codes.ts";
import { pointExits, vaultExits } from "#cli/exit-codes.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import { keyOptions, outputOption, storeOption, workOptions } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

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
    ...collectionOptions,
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
  await using session = await openVaultSession(input, environment, { intent: "remove" });
  const isDryRun = input.flag("dryRun");
  const document = await collectSpace(session.vault, input, { environment, isDryRun });
  printResult(environment, outputFormOf(input), { document, lines: collectionLines(document) });
  return exitOf(document);
}
