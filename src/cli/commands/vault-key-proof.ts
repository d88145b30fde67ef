import type { CommandSpec } from "#cli/command.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { runKeyProof } from "#cli/key-proof.ts";
import { keyOptions, outputOption, storeOption } from "#cli/options.ts";

/** `kluis vault key proof`. */
export const vaultKeyProof: CommandSpec = {
  words: ["vault", "key", "proof"],
  summary: "prove that a key opens the vault and decrypts what is in it",
  description:
    "Opens the vault with the key and decrypts, for each data-key epoch, an object that was sealed under it, " +
    "the newest recovery points first. Reads a few objects, not the data. Exits with 14 where something is " +
    "damaged, missing or not decrypted.",
  arguments: [],
  options: [storeOption, ...keyOptions, outputOption],
  examples: [
    {
      line: "kluis vault key proof --store /srv/vault --customer-key https://kv.vault.azure.net/keys/kluis",
      text: "The customer's key is there, enabled and right.",
    },
  ],
  exits: vaultExits,
  outputKind: "key-proof",
  run: (input, environment) => runKeyProof(input, environment, "read"),
};
