import { type KeyRemovedOutput, outputFormat } from "#contract/cli-output.ts";
import { findSlotName, removeVaultKeys } from "#vault/key-changes.ts";
import { listVaultKeys } from "#vault/vault-files.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { rememberStore, unlockStore } from "#cli/open-vault.ts";
import { keepDataKeyOption, keyOptions, outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

/** `kluis vault key remove`. */
export const vaultKeyRemove: CommandSpec = {
  words: ["vault", "key", "remove"],
  summary: "take a key away, so that it opens the vault no more",
  description:
    "Removes a key slot and starts a new data-key epoch, so that not even a copy of the slot opens what is " +
    "written from then on. What was written before stays readable to whoever copied slot and data. The last " +
    "key that does not lie on the host is not removed.",
  arguments: [
    { name: "slot", text: "object of the slot, or the first 8 digits of it", required: true },
  ],
  options: [storeOption, ...keyOptions, keepDataKeyOption, outputOption],
  examples: [
    {
      line: "kluis vault key remove 1f2e3d4c --store /srv/vault --recovery-key-file recovery.txt",
      text: "A key file was stolen; `kluis vault key list` shows its slot.",
    },
  ],
  exits: [...vaultExits, 34],
  outputKind: "key-removed",
  run: runVaultKeyRemove,
};

async function runVaultKeyRemove(
  input: CommandInput,
  environment: CliEnvironment,
): Promise<number> {
  const { random, signal } = environment;
  const unlocked = await unlockStore(input, environment, { intent: "remove" });
  const { store, files } = unlocked;
  const { listing } = await listVaultKeys(store, signal);
  const names = listing.slots.map(({ name }) => name);
  const name = findSlotName(names, input.requiredArgument(0, "slot"));
  const newEpoch = !input.flag("keepDataKey");
  const changed = await removeVaultKeys({ store, random, signal }, files, [name], { newEpoch });
  const document: KeyRemovedOutput = {
    format: outputFormat,
    kind: "key-removed",
    names: [name],
    ...changed,
  };
  printResult(environment, outputFormOf(input), {
    document,
    lines: [
      `Removed ${name} from the vault in ${store.location}`,
      newEpoch
        ? `New data is sealed under key epoch ${changed.epoch}, which it does not open`
        : `New data is sealed under key epoch ${changed.epoch}, which a copy of it still opens`,
    ],
  });
  await rememberStore(unlocked, environment);
  return 0;
}
