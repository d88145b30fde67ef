import { outputFormat, type VaultAcceptedOutput } from "#contract/cli-output.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { printable } from "#cli/format.ts";
import { unlockStore } from "#cli/open-vault.ts";
import { keyOptions, outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { acceptStore } from "#cli/vault-memory.ts";

/** `kluis vault accept`. */
export const vaultAccept: CommandSpec = {
  words: ["vault", "accept"],
  summary: "take a store that was set back as it is",
  description:
    "This host remembers the newest part of the inventory and the newest key record that it has seen in each store, " +
    "and refuses to delete, collect and change keys where they are gone. After a store was restored from a copy, or " +
    "set back on purpose, this makes the host remember it as it is now. It changes nothing in the store.",
  arguments: [],
  options: [storeOption, ...keyOptions, outputOption],
  examples: [
    {
      line: "kluis vault accept --store /srv/vault --key-file /etc/kluis/key",
      text: "The disk of the vault was restored from last night's copy.",
    },
  ],
  exits: vaultExits,
  outputKind: "vault-accepted",
  run: runVaultAccept,
};

async function runVaultAccept(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { store, files } = await unlockStore(input, environment, { intent: "rescue" });
  const vault = { store, vaultId: files.header.vaultId, keys: files.keys };
  const accepted = await acceptStore(vault, environment);
  const document: VaultAcceptedOutput = {
    format: outputFormat,
    kind: "vault-accepted",
    store: store.location,
    forgotten: accepted.map(({ name }) => name),
  };
  printResult(environment, outputFormOf(input), {
    document,
    lines: [
      ...accepted.map(({ name, reason }) => `Forgotten: ${printable(name)}: ${printable(reason)}`),
      `This host remembers ${store.location} as it is now`,
    ],
  });
  return 0;
}
