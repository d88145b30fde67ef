import { KluisError } from "#base/kluis-error.ts";
import { type KeyAddedOutput, outputFormat } from "#contract/cli-output.ts";
import type { KeySecret } from "#vault/key-secret.ts";
import { addVaultKey } from "#vault/vault-files.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { ensureKeyFile, makeRecoveryKey, recoveryKeyLines } from "#cli/new-keys.ts";
import { readPassphraseFile, unlockStore } from "#cli/open-vault.ts";
import { keyOptions, outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

/** `kluis vault key add`. */
export const vaultKeyAdd: CommandSpec = {
  words: ["vault", "key", "add"],
  summary: "add a key that opens a vault",
  description:
    "Opens the vault with a key that it has and adds another one: a key file, a passphrase or a recovery key.",
  arguments: [],
  options: [
    storeOption,
    ...keyOptions,
    { flags: "--new-key-file <file>", text: "add this key file; made where it does not exist" },
    {
      flags: "--new-passphrase-file <file>",
      text: "add the passphrase on the first line of this file; - is standard input",
    },
    {
      flags: "--new-recovery-key-file <file>",
      text: "add a new recovery key and write it to this new file",
    },
    { flags: "--new-recovery-key", text: "add a new recovery key and print it once" },
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault key add --store /srv/vault --recovery-key-file recovery.txt --new-key-file /etc/kluis/key",
      text: "The key file was lost: make a new one.",
    },
  ],
  exits: vaultExits,
  outputKind: "key-added",
  run: runVaultKeyAdd,
};

interface NewKey {
  readonly secret: KeySecret;
  readonly shown?: Pick<KeyAddedOutput, "recoveryKey" | "recoveryKeyFile">;
}

async function runVaultKeyAdd(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { random, signal } = environment;
  const choose = chooseNewKey(input, environment);
  const { store, files } = await unlockStore(input, environment);
  const { secret, shown } = await choose();
  const name = await addVaultKey(store, files, secret, { random, signal });
  const document: KeyAddedOutput = {
    format: outputFormat,
    kind: "key-added",
    name,
    type: secret.type,
    ...shown,
  };
  const printed = document.recoveryKey;
  printResult(environment, outputFormOf(input), {
    document,
    lines: [
      `Added a ${secret.type} key to the vault in ${store.location} (${name})`,
      ...(printed === undefined ? [] : ["", ...recoveryKeyLines(printed)]),
    ],
  });
  return 0;
}

/** Exactly one new key; made only when the vault is open. ArgumentInvalid (after-change). */
function chooseNewKey(input: CommandInput, environment: CliEnvironment): () => Promise<NewKey> {
  const keyFile = input.text("newKeyFile");
  const passphraseFile = input.text("newPassphraseFile");
  const recoveryFile = input.text("newRecoveryKeyFile");
  const ways: (() => Promise<NewKey>)[] = [];
  if (keyFile !== undefined) ways.push(() => ensureKeyFile(keyFile, environment));
  if (passphraseFile !== undefined) {
    ways.push(async () => ({ secret: await readPassphraseFile(passphraseFile, environment) }));
  }
  if (recoveryFile !== undefined || input.flag("newRecoveryKey")) {
    ways.push(async () => {
      const { secret, printed } = await makeRecoveryKey(recoveryFile, environment);
      const shown =
        recoveryFile === undefined ? { recoveryKey: printed } : { recoveryKeyFile: recoveryFile };
      return { secret, shown };
    });
  }
  const [way, other] = ways;
  if (way !== undefined && other === undefined) return way;
  throw new KluisError(
    "ArgumentInvalid",
    "Cannot add a key: name exactly one of --new-key-file, --new-passphrase-file, --new-recovery-key-file and --new-recovery-key",
  );
}
