import type { CommandSpec } from "#cli/command.ts";
import { pointExits, vaultExits } from "#cli/exit-codes.ts";
import {
  itemOption,
  outputOption,
  pointToVerifyOption,
  recoveryKeyOption,
  storeOption,
} from "#cli/options.ts";
import { depthOption } from "#cli/verify-depth.ts";
import { runVerify } from "#cli/verify-points.ts";

/** `kluis rescue verify`. */
export const rescueVerify: CommandSpec = {
  words: ["rescue", "verify"],
  summary: "check recovery points with nothing but the store and the recovery key",
  description: "As `kluis image verify`, with nothing of the host that made the backups.",
  arguments: [],
  options: [
    storeOption,
    recoveryKeyOption,
    itemOption,
    pointToVerifyOption,
    depthOption,
    outputOption,
  ],
  examples: [
    {
      line: "kluis rescue verify --store /mnt/vault --recovery-key-file -",
      text: "Type the recovery key, then Enter.",
    },
  ],
  exits: [...vaultExits, ...pointExits],
  outputKind: "verify",
  run: (input, environment) => runVerify(input, environment, { intent: "rescue" }),
};
