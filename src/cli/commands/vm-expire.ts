import { type ExpiryOutput, outputFormat } from "#contract/cli-output.ts";
import { expireSnapshots, type ExpiryReport } from "#protect/expire-snapshots.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vmExits } from "#cli/exit-codes.ts";
import { chooseVm, openVmsOf } from "#cli/open-vms.ts";
import { outputOption, vmArgument, vmOptions } from "#cli/options.ts";
import { outputFormOf, printResult, printWarnings } from "#cli/output.ts";

/** `kluis vm expire`. */
export const vmExpire: CommandSpec = {
  words: ["vm", "expire"],
  summary: "let go of snapshots whose days are over",
  description:
    "Releases the snapshots of a VM whose days are over and merges their layers, as each backup does at its " +
    "end. The newest snapshot, the bases of the next transfers and what is being read stay. Points in vaults " +
    "are not touched.",
  arguments: [vmArgument],
  options: [...vmOptions, outputOption],
  examples: [
    {
      line: "kluis vm expire web --vms /etc/kluis/vms",
      text: "Go on with a merge that was cut off.",
    },
  ],
  exits: vmExits,
  outputKind: "expiry",
  run: runVmExpire,
};

async function runVmExpire(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { clock, signal } = environment;
  await using vms = await openVmsOf(input, environment);
  const { hypervisor } = vms;
  const vm = await chooseVm(input, hypervisor, signal);
  const report = await expireSnapshots(vm.id, 0, { hypervisor, clock, signal });
  printWarnings(environment, report.warnings);
  printResult(environment, outputFormOf(input), {
    document: toExpiryOutput(report),
    lines: [
      report.expired.length === 0
        ? "No snapshot was due."
        : `Snapshots that expired: ${report.expired.join(", ")}`,
    ],
  });
  return 0;
}

function toExpiryOutput({ expired, early, warnings }: ExpiryReport): ExpiryOutput {
  return { format: outputFormat, kind: "expiry", expired, expiredEarly: early, warnings };
}
