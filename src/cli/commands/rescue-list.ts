import type { CommandSpec } from "#cli/command.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { runList } from "#cli/list-points.ts";
import { itemOption, outputOption, recoveryKeyOption, storeOption } from "#cli/options.ts";

/** `kluis rescue list`. */
export const rescueList: CommandSpec = {
  words: ["rescue", "list"],
  summary: "list the recovery points with nothing but the store and the recovery key",
  description:
    "As `kluis image list`, on a machine that has neither a cache nor a configuration of Kluis.",
  arguments: [],
  options: [storeOption, recoveryKeyOption, itemOption, outputOption],
  examples: [
    {
      line: "kluis rescue list --store /mnt/vault --recovery-key-file -",
      text: "Type the recovery key, then Enter.",
    },
  ],
  exits: vaultExits,
  outputKind: "points",
  run: (input, environment) => runList(input, environment, { intent: "rescue" }),
};
