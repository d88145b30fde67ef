import type { CommandSpec } from "#cli/command.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { runList } from "#cli/list-points.ts";
import { itemOption, keyOptions, outputOption, storeOption, workOptions } from "#cli/options.ts";

/** `kluis image list`. */
export const imageList: CommandSpec = {
  words: ["image", "list"],
  summary: "list the recovery points of a vault",
  description:
    "Lists the recovery points of all protected items, VMs included, oldest first within an item. A point " +
    "whose manifest is damaged is named, does not hide the others, and makes the exit code 14.",
  arguments: [],
  options: [storeOption, ...keyOptions, itemOption, ...workOptions, outputOption],
  examples: [
    {
      line: "kluis image list --store /srv/vault --key-file /etc/kluis/key",
      text: "Everything in the vault.",
    },
    {
      line: "kluis image list --store /srv/vault --key-file /etc/kluis/key --item disk.qcow2 --output json",
      text: "One item, for a script.",
    },
  ],
  exits: vaultExits,
  outputKind: "points",
  run: (input, environment) => runList(input, environment, { intent: "read" }),
};
