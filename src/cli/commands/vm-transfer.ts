import { outputFormat, type TransferOutput } from "#contract/cli-output.ts";
import { toVmItemId } from "#protect/backup-vm.ts";
import { transferSnapshot } from "#protect/transfer-snapshot.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits, vmExits } from "#cli/exit-codes.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import { chooseVm, openVmsOf } from "#cli/open-vms.ts";
import {
  keyOptions,
  outputOption,
  storeOption,
  verifyBeforeCommitOption,
  vmArgument,
  vmItemOption,
  vmOptions,
  workOptions,
} from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";
import { phaseWords, printBackup } from "#cli/render-backup.ts";
import { toTaskOutput } from "#cli/render-job.ts";
import { readReserveBytes, reserveOption } from "#cli/snapshot-options.ts";

/** `kluis vm transfer`. */
export const vmTransfer: CommandSpec = {
  words: ["vm", "transfer"],
  summary: "send the newest snapshot of a VM to a vault",
  description:
    "Sends the newest snapshot as the recovery point that it is, with everything since the newest point of the " +
    "vault. It takes up a transfer that was cut off: blocks that were sent are not sent again. The VM is not " +
    "frozen, and may start and stop meanwhile. Where another transfer of the VM runs, or the snapshot is in " +
    "the vault already, nothing is done and it says so.",
  arguments: [vmArgument],
  options: [
    storeOption,
    ...keyOptions,
    ...vmOptions,
    vmItemOption,
    reserveOption,
    ...workOptions,
    verifyBeforeCommitOption,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vm transfer web --vms /etc/kluis/vms --store /srv/vault --key-file /etc/kluis/key",
      text: "Send at night what was snapshotted during the day.",
    },
  ],
  exits: [...vaultExits, 22, 24, ...vmExits],
  outputKind: "backup",
  run: runVmTransfer,
};

async function runVmTransfer(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const form = outputFormOf(input);
  const { signal } = environment;
  const reserveBytes = readReserveBytes(input);
  await using vms = await openVmsOf(input, environment);
  const { hypervisor } = vms;
  const { id: vmId } = await chooseVm(input, hypervisor, signal);
  await using session = await openVaultSession(input, environment, { intent: "add" });
  await using display = new ProgressDisplay({ ...environment, form });
  const transfer = await transferSnapshot(
    { vmId, itemId: input.text("item") ?? toVmItemId(vmId), space: { reserveBytes } },
    {
      ...environment,
      hypervisor,
      openVault: () => Promise.resolve(session.vault),
      onProgress: (progress) => display.update({ ...progress, doing: phaseWords[progress.phase] }),
    },
  );
  await display[Symbol.asyncDispose]();
  if (transfer.status === "Failed") throw transfer.error;
  if (transfer.status === "Skipped") {
    const document: TransferOutput = {
      format: outputFormat,
      kind: "transfer",
      transfer: toTaskOutput(transfer),
    };
    printResult(environment, form, { document, lines: [`Nothing was sent: ${transfer.reason}`] });
    return 0;
  }
  printBackup(environment, form, { outcome: transfer.outcome, session });
  return 0;
}
