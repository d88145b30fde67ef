import { type HostKeysOutput, outputFormat } from "#contract/cli-output.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { formatTable } from "#cli/format.ts";
import { keyFolderOption, outputOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { keyFoldersOf } from "#cli/provided-keys.ts";

/** `kluis key list`. */
export const keyList: CommandSpec = {
  words: ["key", "list"],
  summary: "list the keys in the folders of this host, with their versions",
  description:
    "Lists local keys, which wrap the keys of vaults for their owner, and the platform key of this host. Keys " +
    "of Azure Key Vault are listed there.",
  arguments: [],
  options: [keyFolderOption, outputOption],
  examples: [{ line: "kluis key list", text: "All keys of this host." }],
  exits: [15],
  outputKind: "host-keys",
  run: runKeyList,
};

async function runKeyList(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const folders = keyFoldersOf(input, environment);
  const keys = [];
  for (const scheme of ["local:", "platform:"]) {
    const provider = await environment.drivers.openManagedKeys(scheme, folders);
    keys.push(...(await provider.list()));
  }
  const document: HostKeysOutput = { format: outputFormat, kind: "host-keys", keys };
  const rows = keys.flatMap(({ key, isDeleted, versions }) =>
    isDeleted
      ? [[key, "", "deleted"]]
      : versions.map(({ version, isEnabled }) => [
          key,
          version,
          isEnabled ? "enabled" : "disabled",
        ]),
  );
  printResult(environment, outputFormOf(input), {
    document,
    lines: formatTable([{ head: "KEY" }, { head: "VERSION" }, { head: "STATE" }], rows),
  });
  return 0;
}
