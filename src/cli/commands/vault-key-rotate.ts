import { KluisError } from "#base/kluis-error.ts";
import { type KeysRotatedOutput, outputFormat } from "#contract/cli-output.ts";
import { rotateVaultKeys } from "#vault/key-changes.ts";
import { isProvided, type KeySecret } from "#vault/key-secret.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { readSecret, rememberStore, unlockStore } from "#cli/open-vault.ts";
import { keepDataKeyOption, keyOptions, outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { openKeyToRewrap } from "#cli/provided-keys.ts";

/** `kluis vault key rotate`. */
export const vaultKeyRotate: CommandSpec = {
  words: ["vault", "key", "rotate"],
  summary: "start a new data-key epoch, and wrap slots anew under newer versions of their keys",
  description:
    "Everything that is written from now on is sealed under a new master key, which every key of the vault " +
    "opens at once, also a recovery key that nobody has at hand. What is there stays as it is and stays " +
    "readable. Slots of the key that opens the vault, and of those named by --rewrap, are wrapped by the " +
    "newest version of their key, unless a version was named when they were added.",
  arguments: [],
  options: [
    storeOption,
    ...keyOptions,
    {
      flags: "--rewrap <key>",
      text: "wrap the slots of this customer key anew too; platform for the platform key; may be repeated",
      repeated: true,
    },
    keepDataKeyOption,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault key rotate --store /srv/vault --key-file /etc/kluis/key",
      text: "A new data key, every month by cron.",
    },
    {
      line: "kluis vault key rotate --store /srv/vault --customer-key https://kv.vault.azure.net/keys/kluis --keep-data-key",
      text: "The customer's key has a new version: wrap with it, and leave the data key.",
    },
  ],
  exits: [...vaultExits, 34],
  outputKind: "keys-rotated",
  run: runVaultKeyRotate,
};

async function runVaultKeyRotate(
  input: CommandInput,
  environment: CliEnvironment,
): Promise<number> {
  const { random, signal } = environment;
  const secret = await readSecret(input, environment);
  const wrapping: KeySecret[] = isProvided(secret) ? [secret] : [];
  for (const name of input.texts("rewrap")) {
    wrapping.push(await openKeyToRewrap(name, input, environment));
  }
  const dataKey = !input.flag("keepDataKey");
  if (!dataKey && wrapping.length === 0) {
    throw new KluisError(
      "ArgumentInvalid",
      "Cannot rotate: --keep-data-key leaves nothing to do without a key to wrap with",
    );
  }
  const unlocked = await unlockStore(input, environment, { intent: "remove", given: secret });
  const { store, files } = unlocked;
  const changed = await rotateVaultKeys({ store, random, signal }, files, { dataKey, wrapping });
  const document: KeysRotatedOutput = { format: outputFormat, kind: "keys-rotated", ...changed };
  printResult(environment, outputFormOf(input), {
    document,
    lines: [
      `New data in ${store.location} is sealed under key epoch ${changed.epoch}`,
      ...changed.rewrapped.map(({ newName, key }) => `Wrapped ${newName} by ${key}`),
      ...(wrapping.length > 0 && changed.rewrapped.length === 0
        ? ["No slot had to be wrapped anew"]
        : []),
    ],
  });
  await rememberStore(unlocked, environment);
  return 0;
}
