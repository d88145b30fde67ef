import { KluisError } from "#base/kluis-error.ts";
import { type KeyAddedOutput, outputFormat } from "#contract/cli-output.ts";
import type { KeySecret } from "#vault/key-secret.ts";
import { addVaultKey } from "#vault/key-changes.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { ensureKeyFile, makeRecoveryKey, recoveryKitLines } from "#cli/new-keys.ts";
import { readPassphraseFile, rememberStore, unlockStore } from "#cli/open-vault.ts";
import { keyOptions, outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { openCustomerKey, openPlatformKey } from "#cli/provided-keys.ts";

/** `kluis vault key add`. */
export const vaultKeyAdd: CommandSpec = {
  words: ["vault", "key", "add"],
  summary: "add a key that opens a vault",
  description:
    "Opens the vault with a key that it has and adds another one: a key file, a passphrase, a recovery key, a key of a " +
    "key provider or the key of this host. On return the new key opens the vault.",
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
    {
      flags: "--new-customer-key <key>",
      text: "add this key of a provider: https://VAULT/keys/NAME or local:NAME; with a version it stays at that",
    },
    {
      flags: "--new-platform-key",
      text: "add the key that this host holds for its vaults; made where it does not exist",
    },
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault key add --store /srv/vault --recovery-key-file recovery.txt --new-key-file /etc/kluis/key",
      text: "The key file was lost: make a new one.",
    },
    {
      line: "kluis vault key add --store /srv/vault --key-file /etc/kluis/key --new-customer-key https://kv.vault.azure.net/keys/kluis",
      text: "A customer-managed key in Azure Key Vault; credentials are those of Azure's tools (AZURE_CLIENT_ID …).",
    },
  ],
  exits: [...vaultExits, 34],
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
  const unlocked = await unlockStore(input, environment, { intent: "remove" });
  const { store, files } = unlocked;
  const { secret, shown } = await choose(store.location);
  const { name } = await addVaultKey({ store, random, signal }, files, secret);
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
      ...(printed === undefined
        ? []
        : ["", ...recoveryKitLines(printed, { place: store.location })]),
    ],
  });
  await rememberStore(unlocked, environment);
  return 0;
}

/** Exactly one new key; made only when the vault is open. ArgumentInvalid (after-change). */
function chooseNewKey(
  input: CommandInput,
  environment: CliEnvironment,
): (place: string) => Promise<NewKey> {
  const keyFile = input.text("newKeyFile");
  const passphraseFile = input.text("newPassphraseFile");
  const recoveryFile = input.text("newRecoveryKeyFile");
  const ways: ((place: string) => Promise<NewKey>)[] = [];
  if (keyFile !== undefined) ways.push(() => ensureKeyFile(keyFile, environment));
  if (passphraseFile !== undefined) {
    ways.push(async () => ({ secret: await readPassphraseFile(passphraseFile, environment) }));
  }
  if (recoveryFile !== undefined || input.flag("newRecoveryKey")) {
    // The kit is read where this working folder is not: the place as it was typed may be relative.
    ways.push(async (place) => {
      const { secret, printed } = await makeRecoveryKey(recoveryFile, environment, { place });
      const shown =
        recoveryFile === undefined ? { recoveryKey: printed } : { recoveryKeyFile: recoveryFile };
      return { secret, shown };
    });
  }
  const customerKey = input.text("newCustomerKey");
  if (customerKey !== undefined) {
    ways.push(async () => ({ secret: await openCustomerKey(customerKey, input, environment) }));
  }
  if (input.flag("newPlatformKey")) {
    const create = { create: true };
    ways.push(async () => ({ secret: await openPlatformKey(input, environment, create) }));
  }
  const [way, other] = ways;
  if (way !== undefined && other === undefined) return way;
  throw new KluisError(
    "ArgumentInvalid",
    "Cannot add a key: name exactly one new key (--new-key-file, --new-recovery-key …)",
  );
}
