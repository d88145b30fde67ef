/** `kluis vm extension status`, `install`, `remove`: one command each. */
import { outputFormat, type VmExtensionOutput } from "#contract/cli-output.ts";
import type { ExtensionAction, ExtensionState } from "#ports/hypervisor.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vmExits } from "#cli/exit-codes.ts";
import { printable } from "#cli/format.ts";
import { chooseVm, openVmsOf } from "#cli/open-vms.ts";
import { outputOption, vmArgument, vmOptions } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

const texts: Readonly<
  Record<ExtensionAction, { summary: string; description: string; example: string }>
> = {
  status: {
    summary: "show the backup extension in a running guest",
    description:
      "Shows whether the extension is in the guest, its version, what the last backup came to there, and what it " +
      "has changed in the guest.",
    example: "Whether the next backup can run the guest's scripts.",
  },
  install: {
    summary: "put the backup extension into a running guest",
    description:
      "The first backup of a running VM does the same; so does each later one where the guest has an older version.",
    example: "Before the first backup.",
  },
  remove: {
    summary: "take the backup extension out of a running guest",
    description:
      "Removes every file that the extension put there and gives back every setting that it changed. The next " +
      "backup of the running VM puts it there again.",
    example: "Leave the guest as it was found.",
  },
};

/** One of the three commands. */
export function createVmExtension(action: ExtensionAction): CommandSpec {
  const { summary, description, example } = texts[action];
  return {
    words: ["vm", "extension", action],
    summary,
    description,
    arguments: [vmArgument],
    options: [...vmOptions, outputOption],
    examples: [{ line: `kluis vm extension ${action} web --vms /etc/kluis/vms`, text: example }],
    exits: vmExits,
    outputKind: "vm-extension",
    run: (input, environment) => runVmExtension(action, input, environment),
  };
}

async function runVmExtension(
  action: ExtensionAction,
  input: CommandInput,
  environment: CliEnvironment,
): Promise<number> {
  const { signal } = environment;
  await using vms = await openVmsOf(input, environment);
  const { hypervisor } = vms;
  const vm = await chooseVm(input, hypervisor, signal);
  const state = await hypervisor.manageExtension(vm.id, action, signal);
  const document: VmExtensionOutput = {
    format: outputFormat,
    kind: "vm-extension",
    vm: vm.id,
    ...state,
  };
  printResult(environment, outputFormOf(input), {
    document,
    lines: extensionLines(vm.name, state),
  });
  return 0;
}

function extensionLines(name: string, state: ExtensionState): readonly string[] {
  const vm = printable(name);
  if (!state.isInstalled) return [`VM ${vm} has no backup extension.`];
  const age = state.isCurrent === true ? "" : ", which the next backup replaces";
  const { lastStatus, lastError, lastAt } = state;
  return [
    `VM ${vm} has backup extension ${printable(state.version ?? "without a version")}${age}.`,
    ...(lastStatus === undefined
      ? ["It has seen no backup yet."]
      : [`Last backup: ${printable(lastStatus)}, at ${printable(lastAt ?? "an unknown time")}.`]),
    ...(lastError === undefined ? [] : [`Why not better: ${printable(lastError)}`]),
    "Changed in the guest:",
    ...state.changes.map((change) => `  ${printable(change)}`),
  ];
}
