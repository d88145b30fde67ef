import { outputFormat, type VmOutput, type VmsOutput } from "#contract/cli-output.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vmExits } from "#cli/exit-codes.ts";
import { formatBytes, formatTable, printable } from "#cli/format.ts";
import { openVmsOf, toVmOutput } from "#cli/open-vms.ts";
import { outputOption, vmOptions } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

/** `kluis vm list`. */
export const vmList: CommandSpec = {
  words: ["vm", "list"],
  summary: "list the described VMs, their state and their disks",
  description: "Lists the VMs that the given description files describe.",
  arguments: [],
  options: [...vmOptions, outputOption],
  examples: [{ line: "kluis vm list --vms /etc/kluis/vms", text: "All VMs of a folder." }],
  exits: vmExits,
  outputKind: "vms",
  run: runVmList,
};

async function runVmList(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { signal } = environment;
  await using vms = await openVmsOf(input, environment);
  const { hypervisor } = vms;
  const outputs: VmOutput[] = [];
  for (const vm of await hypervisor.list(signal)) {
    outputs.push(await toVmOutput(vm, hypervisor, signal));
  }
  const document: VmsOutput = { format: outputFormat, kind: "vms", vms: outputs };
  printResult(environment, outputFormOf(input), { document, lines: vmLines(outputs) });
  return 0;
}

function vmLines(vms: readonly VmOutput[]): readonly string[] {
  const rows = vms.flatMap((vm) =>
    vm.disks.map((disk, at) => [
      at === 0 ? printable(vm.id) : "",
      at === 0 ? vm.state : "",
      at === 0 ? String(vm.snapshots) : "",
      disk.name,
      formatBytes(disk.sizeBytes),
      disk.format,
      printable(disk.path),
    ]),
  );
  if (rows.length === 0) return ["No VM is described there."];
  return formatTable(
    [
      { head: "VM" },
      { head: "STATE" },
      { head: "SNAPSHOTS", align: "right" },
      { head: "DISK" },
      { head: "SIZE", align: "right" },
      { head: "FORMAT" },
      { head: "PATH" },
    ],
    rows,
  );
}
