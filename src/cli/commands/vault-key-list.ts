import { toHex } from "#base/bytes.ts";
import { type KeysOutput, outputFormat } from "#contract/cli-output.ts";
import { listVaultKeys } from "#vault/vault-files.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { formatTable } from "#cli/format.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

/** `kluis vault key list`. */
export const vaultKeyList: CommandSpec = {
  words: ["vault", "key", "list"],
  summary: "list the keys that open a vault",
  description:
    "Lists the key slots of a vault. It needs no key: slots are public, what they seal is not.",
  arguments: [],
  options: [storeOption, outputOption],
  examples: [{ line: "kluis vault key list --store /srv/vault", text: "All ways into the vault." }],
  exits: vaultExits,
  outputKind: "keys",
  run: runVaultKeyList,
};

async function runVaultKeyList(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const store = await environment.drivers.openStore(input.requiredText("store"), { create: false });
  const { header, listing } = await listVaultKeys(store, environment.signal);
  const document: KeysOutput = {
    format: outputFormat,
    kind: "keys",
    vaultId: toHex(header.vaultId),
    keys: listing.slots.map(({ name, slot }) => ({ name, type: slot.type })),
    damaged: listing.damaged,
    newer: listing.newer,
  };
  printResult(environment, outputFormOf(input), {
    document,
    lines: [
      ...formatTable(
        [{ head: "TYPE" }, { head: "OBJECT" }],
        document.keys.map(({ name, type }) => [type, name]),
      ),
      ...document.damaged.map((name) => `Damaged: ${name}`),
      ...document.newer.map((name) => `Written by a newer version: ${name}`),
    ],
  });
  return 0;
}
