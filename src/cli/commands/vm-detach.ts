import type { CommandSpec } from "#cli/command.ts";
import { vmExits } from "#cli/exit-codes.ts";
import { changeVm } from "#cli/open-vms.ts";
import { outputOption, vmArgument, vmOptions } from "#cli/options.ts";

/** `kluis vm detach`. */
export const vmDetach: CommandSpec = {
  words: ["vm", "detach"],
  summary: "flatten the disks of a VM to one file each at their original paths",
  description:
    "Merges all layers into the original images and forgets the snapshots, whether the VM runs or not. The " +
    "next backup compares by checksum. Recovery points in vaults are not touched.",
  arguments: [vmArgument],
  options: [...vmOptions, outputOption],
  examples: [
    { line: "kluis vm detach web --vms /etc/kluis/vms", text: "Leave the VM as it was found." },
  ],
  exits: vmExits,
  outputKind: "vm-detached",
  run: (input, environment) =>
    changeVm(input, environment, {
      kind: "vm-detached",
      word: "Detached",
      apply: (hypervisor, vmId) => hypervisor.detach(vmId, environment.signal),
    }),
};
