import { errorRegistry } from "#base/error-codes.ts";
import type { CommandSpec } from "#cli/command.ts";
import { vaultExits, vmExits } from "#cli/exit-codes.ts";
import { openTiers } from "#cli/open-tiers.ts";
import {
  keyOptions,
  optionalStoreOption,
  outputOption,
  vmArgument,
  vmItemOption,
  vmOptions,
  workOptions,
} from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { toVmPointsOutput, vmPointsLines } from "#cli/render-job.ts";

/** `kluis vm points`. */
export const vmPoints: CommandSpec = {
  words: ["vm", "points"],
  summary: "list the recovery points of a VM, in snapshots and in a vault",
  description:
    "Lists the recovery points of one VM, oldest first, with their tier: snapshot, snapshot and vault, or " +
    "vault. With --vm or --vms the snapshots of this host are listed, with --store the points of a vault; " +
    "with both, each point says where it is. Snapshots are listed without any vault.",
  arguments: [vmArgument],
  options: [
    ...vmOptions,
    optionalStoreOption,
    ...keyOptions,
    vmItemOption,
    ...workOptions,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vm points web --vms /etc/kluis/vms --store /srv/vault --key-file /etc/kluis/key",
      text: "All points, and where each can be restored from.",
    },
    {
      line: "kluis vm points web --vms /etc/kluis/vms",
      text: "What can be restored in minutes, when the vault cannot be reached.",
    },
  ],
  exits: [...vaultExits, ...vmExits],
  outputKind: "vm-points",
  run: async (input, environment) => {
    await using tiers = await openTiers(input, environment);
    printResult(environment, outputFormOf(input), {
      document: toVmPointsOutput(tiers.listing),
      lines: vmPointsLines(tiers.listing),
    });
    return tiers.listing.unreadable.length === 0 ? 0 : errorRegistry.ObjectCorrupt.exit;
  },
};
