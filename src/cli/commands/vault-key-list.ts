import { toHex } from "#base/bytes.ts";
import { type KeysOutput, outputFormat } from "#contract/cli-output.ts";
import { describeVaultKeys, missingSlots } from "#vault/key-listing.ts";
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
    "Lists the key slots of a vault, and which of them are valid. It needs no key: slots are public, what they " +
    "seal is not.",
  arguments: [],
  options: [storeOption, outputOption],
  examples: [{ line: "kluis vault key list --store /srv/vault", text: "All ways into the vault." }],
  exits: vaultExits,
  outputKind: "keys",
  run: runVaultKeyList,
};

async function runVaultKeyList(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const store = await environment.drivers.openStore(input.requiredText("store"), { create: false });
  const listed = await listVaultKeys(store, environment.signal);
  const { header, listing, records } = listed;
  const document: KeysOutput = {
    format: outputFormat,
    kind: "keys",
    vaultId: toHex(header.vaultId),
    keys: describeVaultKeys(listed),
    damaged: [...listing.damaged, ...records.damaged],
    newer: listing.newer,
    record: records.newest?.number ?? 0,
    epoch: records.newest?.epoch ?? 0,
    missing: [...missingSlots(listed), ...records.missing],
  };
  printResult(environment, outputFormOf(input), { document, lines: listLines(document) });
  return 0;
}

function listLines(document: KeysOutput): readonly string[] {
  const { keys, damaged, newer, missing, record, epoch } = document;
  return [
    ...formatTable(
      [{ head: "TYPE" }, { head: "STATE" }, { head: "OBJECT" }, { head: "WRAPPED BY" }],
      keys.map(({ name, type, isValid, key }) => [
        type,
        isValid ? "valid" : "not valid",
        name,
        key ?? "",
      ]),
    ),
    ...(record === 0
      ? ["No key record can be read"]
      : [`Key epoch ${epoch}, ${record} key records`]),
    ...missing.map((name) => `Missing: ${name}`),
    ...damaged.map((name) => `Damaged: ${name}`),
    ...newer.map((name) => `Written by a newer version: ${name}`),
  ];
}
