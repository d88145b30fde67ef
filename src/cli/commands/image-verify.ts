import type { CommandSpec } from "#cli/command.ts";
import { pointExits, vaultExits } from "#cli/exit-codes.ts";
import {
  itemOption,
  keyOptions,
  outputOption,
  pointToVerifyOption,
  recordOption,
  storeOption,
  workOptions,
} from "#cli/options.ts";
import { depthOption } from "#cli/verify-depth.ts";
import { runVerify } from "#cli/verify-points.ts";

/** `kluis image verify`. */
export const imageVerify: CommandSpec = {
  words: ["image", "verify"],
  summary: "check that recovery points can be restored",
  description:
    "Reads every object that the recovery points need once, checks its name by its content, decrypts every frame " +
    "and checks the id of every block. What is missing or damaged is named, with the recovery points and ranges " +
    "of disks that it touches, and noted in the vault, so that the next backup stores again what the disks still " +
    "have. Exit code 0: sound; 14: damaged; 12: something could not be read just now.",
  arguments: [],
  options: [
    storeOption,
    ...keyOptions,
    itemOption,
    pointToVerifyOption,
    depthOption,
    recordOption,
    ...workOptions,
    outputOption,
  ],
  examples: [
    {
      line: "kluis image verify --store /srv/vault --key-file /etc/kluis/key",
      text: "Everything in the vault.",
    },
    {
      line: "kluis image verify --store /srv/vault --key-file /etc/kluis/key --item vm:web",
      text: "All recovery points of one VM.",
    },
  ],
  exits: [...vaultExits, ...pointExits],
  outputKind: "verify",
  run: (input, environment) => runVerify(input, environment, { intent: "read" }),
};
