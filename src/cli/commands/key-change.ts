/** `kluis key create`, `rotate`, `disable`, `enable`, `delete`, `recover`: one command each. */
import { type HostKeyChangedOutput, outputFormat } from "#contract/cli-output.ts";
import type { ManagedKeys } from "#ports/key-provider.ts";
import type { CommandInput, CommandSpec, OptionSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { keyFolderOption, outputOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { keyFoldersOf } from "#cli/provided-keys.ts";

/** What can be done to a key of this host. */
export type KeyChangeWord = "create" | "rotate" | "disable" | "enable" | "delete" | "recover";

interface KeyChangeText {
  readonly summary: string;
  readonly description: string;
  readonly done: string;
}

const texts: Readonly<Record<KeyChangeWord, KeyChangeText>> = {
  create: {
    summary: "make a key in a folder of this host",
    description:
      "Makes a local key, which wraps the keys of vaults as a key in Azure Key Vault does. Keep the folder where " +
      "a loss of the host does not reach it, or keep another key of each vault.",
    done: "Made",
  },
  rotate: {
    summary: "make a new version of a key",
    description:
      "New slots are wrapped by the new version; `kluis vault key rotate` wraps those that are there. Old " +
      "versions go on unwrapping until they are disabled.",
    done: "Made",
  },
  disable: {
    summary: "make a version of a key refuse",
    description: "Vaults whose slots it wraps do not open with it until it is enabled.",
    done: "Disabled",
  },
  enable: {
    summary: "let a disabled version of a key work again",
    description: "Enables the version that is named, else the newest.",
    done: "Enabled",
  },
  delete: {
    summary: "delete a key so that it can be recovered",
    description: "Vaults whose slots it wraps do not open with it until it is recovered.",
    done: "Deleted",
  },
  recover: {
    summary: "recover a key that was deleted",
    description: "Brings back a deleted key with all its versions.",
    done: "Recovered",
  },
};

const typeOption: OptionSpec = {
  flags: "--type <type>",
  text: "how it wraps: RSA-OAEP-256 with 3,072 bits, or AES key wrap with 256",
  choices: ["rsa", "aes"],
  otherwise: "rsa",
};

/** The command of that word. */
export function createKeyChange(word: KeyChangeWord): CommandSpec {
  const { summary, description } = texts[word];
  return {
    words: ["key", word],
    summary,
    description,
    arguments: [
      { name: "key", text: "local:NAME, or local:NAME/VERSION for a version", required: true },
    ],
    options: [...(word === "create" ? [typeOption] : []), keyFolderOption, outputOption],
    examples: [{ line: `kluis key ${word} local:backups`, text: `${texts[word].done} by name.` }],
    exits: [15],
    outputKind: "host-key-changed",
    run: (input, environment) => runKeyChange(word, input, environment),
  };
}

async function runKeyChange(
  word: KeyChangeWord,
  input: CommandInput,
  environment: CliEnvironment,
): Promise<number> {
  const named = input.requiredArgument(0, "key");
  const folders = keyFoldersOf(input, environment);
  const provider = await environment.drivers.openManagedKeys(named, folders);
  const key = await applyChange(word, named, { provider, type: input.text("type") });
  const document: HostKeyChangedOutput = {
    format: outputFormat,
    kind: "host-key-changed",
    key,
    change: word,
  };
  printResult(environment, outputFormOf(input), {
    document,
    lines: [`${texts[word].done} ${key}`],
  });
  return 0;
}

/** The name of what was changed. */
async function applyChange(
  word: KeyChangeWord,
  key: string,
  how: { readonly provider: ManagedKeys; readonly type: string | undefined },
): Promise<string> {
  const { provider, type } = how;
  if (word === "create") return await provider.create(key, type === "aes" ? "AES" : "RSA");
  if (word === "rotate") return await provider.addVersion(key);
  if (word === "disable" || word === "enable") await provider.setEnabled(key, word === "enable");
  else await provider.move(key, word);
  return key;
}
