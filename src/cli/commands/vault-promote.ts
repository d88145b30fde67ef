import { outputFormat, type VaultPromotedOutput } from "#contract/cli-output.ts";
import { promoteVault } from "#vault/replicate.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

/** `kluis vault promote`. */
export const vaultPromote: CommandSpec = {
  words: ["vault", "promote"],
  summary: "make a secondary a vault of its own",
  description:
    "The failover: from then on backups may write to the vault, and replication to it is refused. Stop replication " +
    "to it first. It needs no key.",
  arguments: [],
  options: [{ ...storeOption, text: "store of the secondary" }, outputOption],
  examples: [
    {
      line: "kluis vault promote --store /mnt/second",
      text: "The primary is lost; back up to the secondary from now on.",
    },
  ],
  exits: vaultExits,
  outputKind: "vault-promoted",
  run: runVaultPromote,
};

async function runVaultPromote(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { signal, drivers } = environment;
  const place = input.requiredText("store");
  const secondary = await drivers.openStore(place, { create: false });
  await promoteVault({ secondary, signal });
  const document: VaultPromotedOutput = {
    format: outputFormat,
    kind: "vault-promoted",
    store: secondary.location,
  };
  printResult(environment, outputFormOf(input), {
    document,
    lines: [`The vault in ${secondary.location} is one of its own now`],
  });
  return 0;
}
