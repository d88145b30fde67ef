import { toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { outputFormat, type VaultCreatedOutput } from "#contract/cli-output.ts";
import { type KeySecret, toPassphraseSecret } from "#vault/key-secret.ts";
import { assertPlaceIsFree, createVaultFiles, vaultIdBytes } from "#vault/vault-files.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { ensureKeyFile, makeFirstRecoveryKey, recoveryKitLines } from "#cli/new-keys.ts";
import { readPassphraseFile } from "#cli/open-vault.ts";
import { keyFolderOption, outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { openCustomerKey, openPlatformKey } from "#cli/provided-keys.ts";

/** Ten years: whoever asks for more has mistyped, and nobody could undo it. */
const immutabilityDaysMax = 3650;

/** `kluis vault create`. */
export const vaultCreate: CommandSpec = {
  words: ["vault", "create"],
  summary: "make an empty folder, bucket or container a vault",
  description:
    "Creates a vault and the keys that open it: those named, and a recovery key, which is printed once with " +
    "what is needed to use it, or written to a file. Each key is proved by opening the vault with it. The store must keep what it was told is durable; that is tried out first.",
  arguments: [],
  options: [
    storeOption,
    {
      flags: "--key-file <file>",
      text: "key file for unattended runs; made where it does not exist",
    },
    {
      flags: "--passphrase-file <file>",
      text: "passphrase on the first line of this file; - is standard input",
      otherwise: "KLUIS_PASSPHRASE, where it is set",
    },
    {
      flags: "--customer-key <key>",
      text: "key of a provider that opens it too: https://VAULT/keys/NAME or local:NAME",
    },
    {
      flags: "--platform-key",
      text: "let the key that this host holds for its vaults open it; made where it does not exist",
    },
    keyFolderOption,
    {
      flags: "--immutability-days <days>",
      text: "lock what is stored for so many days; --store names a bucket with object lock, and control= another",
    },
    {
      flags: "--recovery-key-file <file>",
      text: "write the recovery kit to this new file instead of printing it",
    },
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault create --store /srv/vault --key-file /etc/kluis/key",
      text: "A vault for unattended backups; keep the printed recovery key.",
    },
    {
      line: "kluis vault create --store /srv/vault --passphrase-file - --recovery-key-file recovery.txt",
      text: "A vault with a passphrase.",
    },
    {
      line: "kluis vault create --store s3://backups/vm --key-file /etc/kluis/key",
      text: "A vault in a bucket of S3, with the credentials that the AWS command line has.",
    },
    {
      line: "kluis vault create --store 's3://locked/vm?control=s3://control/vm' --immutability-days 30 --key-file /etc/kluis/key",
      text: "A vault whose recovery points nobody can delete for 30 days.",
    },
  ],
  exits: [10, 11, 12, 13, 15],
  outputKind: "vault-created",
  run: runVaultCreate,
};

async function runVaultCreate(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { signal, random } = environment;
  const place = input.requiredText("store");
  assertSomeKey(input, environment);
  const store = await environment.drivers.openStore(place, {
    create: true,
    immutabilityDays: input.count("immutabilityDays", { min: 1, max: immutabilityDaysMax }),
  });
  // Before any key file is made: a place that cannot become a vault must not cost a key.
  await assertPlaceIsFree(store, signal);
  const secrets = await newSecrets(input, environment);
  const recoveryKeyFile = input.text("recoveryKeyFile");
  const vaultId = random.bytes(vaultIdBytes);
  const kit = { place: store.location, vaultId: toHex(vaultId) };
  const recovery = await makeFirstRecoveryKey(recoveryKeyFile, environment, kit);
  const created = await createVaultFiles(store, {
    secrets: [...secrets, recovery.secret],
    random,
    withRecoveryKey: false,
    vaultId,
    signal,
  });
  const document: VaultCreatedOutput = {
    format: outputFormat,
    kind: "vault-created",
    store: store.location,
    vaultId: toHex(created.header.vaultId),
    keys: [...secrets, recovery.secret].map(({ type }) => type),
    ...(recoveryKeyFile === undefined ? { recoveryKey: recovery.printed } : { recoveryKeyFile }),
  };
  const shown =
    recoveryKeyFile === undefined
      ? recoveryKitLines(recovery.printed, kit)
      : [
          `The recovery kit is in ${recoveryKeyFile}; print it, prove it with kluis rescue check, and keep it`,
          "away from this machine.",
        ];
  printResult(environment, outputFormOf(input), {
    document,
    lines: [
      `Created vault ${document.vaultId} in ${store.location}`,
      `Keys: ${document.keys.join(", ")}`,
      "",
      ...shown,
    ],
  });
  return 0;
}

function assertSomeKey(input: CommandInput, environment: CliEnvironment): void {
  const isGiven =
    input.text("keyFile") !== undefined ||
    input.text("passphraseFile") !== undefined ||
    input.text("customerKey") !== undefined ||
    input.flag("platformKey") ||
    environment.passphrase !== undefined;
  if (isGiven) return;
  throw new KluisError("KeyMissing", "Cannot create a vault: no key was given");
}

async function newSecrets(
  input: CommandInput,
  environment: CliEnvironment,
): Promise<readonly KeySecret[]> {
  const secrets: KeySecret[] = [];
  const passphraseFile = input.text("passphraseFile");
  const keyFile = input.text("keyFile");
  if (passphraseFile !== undefined) {
    secrets.push(await readPassphraseFile(passphraseFile, environment));
  } else if (environment.passphrase !== undefined) {
    secrets.push(toPassphraseSecret(environment.passphrase));
  }
  if (keyFile !== undefined) secrets.push((await ensureKeyFile(keyFile, environment)).secret);
  const customerKey = input.text("customerKey");
  if (customerKey !== undefined) {
    secrets.push(await openCustomerKey(customerKey, input, environment));
  }
  if (input.flag("platformKey")) {
    secrets.push(await openPlatformKey(input, environment, { create: true }));
  }
  return secrets;
}
