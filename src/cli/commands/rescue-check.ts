import type { CommandSpec } from "#cli/command.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { runKeyProof } from "#cli/key-proof.ts";
import { outputOption, recoveryKeyOption, storeOption } from "#cli/options.ts";

/** `kluis rescue check`. */
export const rescueCheck: CommandSpec = {
  words: ["rescue", "check"],
  summary: "prove that the recovery kit works",
  description:
    "As `kluis vault key proof`, with nothing but the store and the recovery key: the proof to run when the " +
    "kit has been printed, and now and then.",
  arguments: [],
  options: [storeOption, recoveryKeyOption, outputOption],
  examples: [
    {
      line: "kluis rescue check --store /srv/vault --recovery-key-file -",
      text: "Type the recovery key from the paper, then Enter.",
    },
  ],
  exits: vaultExits,
  outputKind: "key-proof",
  run: (input, environment) => runKeyProof(input, environment, "rescue"),
};
