import type { CommandSpec } from "#cli/command.ts";
import { vmExits } from "#cli/exit-codes.ts";
import { changeVm } from "#cli/open-vms.ts";
import { outputOption, vmArgument, vmOptions } from "#cli/options.ts";

/** `kluis vm start`. */
export const vmStart: CommandSpec = {
  words: ["vm", "start"],
  summary: "start a described VM",
  description:
    "Starts a VM on the newest layers of its disks. A VM that was backed up must be started this way: " +
    "its newest state lies in overlays beside its images.",
  arguments: [vmArgument],
  options: [...vmOptions, outputOption],
  examples: [{ line: "kluis vm start --vm web.json", text: "The VM of one description." }],
  exits: vmExits,
  outputKind: "vm-started",
  run: (input, environment) =>
    changeVm(input, environment, {
      kind: "vm-started",
      word: "Started",
      apply: (hypervisor, vmId) => hypervisor.start(vmId, environment.signal),
    }),
};
