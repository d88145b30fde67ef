import type { Consistency, VmSnapshot } from "#ports/hypervisor.ts";
import { backupVm, toVmItemId } from "#protect/backup-vm.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits, vmExits } from "#cli/exit-codes.ts";
import { formatDuration } from "#cli/format.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import { chooseVm, openVmsOf } from "#cli/open-vms.ts";
import {
  keyOptions,
  outputOption,
  storeOption,
  verifyBeforeCommitOption,
  vmArgument,
  vmOptions,
  workOptions,
} from "#cli/options.ts";
import { outputFormOf, printResult, printWarnings } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";
import { backupLines, phaseWords, toBackupOutput } from "#cli/render-backup.ts";

const consistencies = ["application", "file-system", "crash"] as const;
const freezeBudgetMs = { min: 1000, max: 10_000, usual: 8000 } as const;

/** `kluis vm backup`. */
export const vmBackup: CommandSpec = {
  words: ["vm", "backup"],
  summary: "write a recovery point of a VM, all disks at one instant",
  description:
    "Runs the guest's pre script where it has one, freezes its file systems for a moment, snapshots all disks in one " +
    "transaction, runs the post script, and sends what changed since the last recovery point, all disks in parallel. " +
    "A point that is less consistent than was asked for says why. The snapshot stays as the base of the next " +
    "backup; older ones are merged.",
  arguments: [vmArgument],
  options: [
    storeOption,
    ...keyOptions,
    ...vmOptions,
    {
      flags: "--consistency <level>",
      text: "the most that is wanted: scripts and freeze, freeze alone, or neither",
      choices: consistencies,
      otherwise: "application",
    },
    {
      flags: "--skip-mount <path>",
      text: "mount point in the guest that is not frozen",
      repeated: true,
    },
    {
      flags: "--freeze-unwatched",
      text: "freeze also a guest in which no watchdog can run",
    },
    {
      flags: "--freeze-budget <ms>",
      text: "longest time that the guest may stay frozen, 1000 to 10000",
      otherwise: String(freezeBudgetMs.usual),
    },
    {
      flags: "--item <id>",
      text: "id of the protected item",
      otherwise: "vm: and the id of the VM",
    },
    ...workOptions,
    verifyBeforeCommitOption,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vm backup web --vms /etc/kluis/vms --store /srv/vault --key-file /etc/kluis/key",
      text: "First time: everything; after that: what changed.",
    },
  ],
  exits: [...vaultExits, 22, 24, ...vmExits],
  outputKind: "backup",
  run: runVmBackup,
};

async function runVmBackup(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const form = outputFormOf(input);
  const { signal, clock, random } = environment;
  const budgetMs = input.count("freezeBudget", freezeBudgetMs) ?? freezeBudgetMs.usual;
  await using vms = await openVmsOf(input, environment);
  const { hypervisor, configurations } = vms;
  const vm = await chooseVm(input, hypervisor, signal);
  await using session = await openVaultSession(input, environment, {
    intent: "add",
    startThread: true,
  });
  await using display = new ProgressDisplay({ ...environment, form });
  const outcome = await backupVm(
    {
      vmId: vm.id,
      itemId: input.text("item") ?? toVmItemId(vm.id),
      consistency: wantedConsistency(input),
      freezeBudgetMs: budgetMs,
      mountsToSkip: input.texts("skipMount"),
      mayFreezeUnwatched: input.flag("freezeUnwatched"),
    },
    {
      vault: session.vault,
      hypervisor,
      configurations,
      clock,
      random,
      signal,
      onSnapshot: (snapshot) => display.note(describeSnapshot(snapshot)),
      onProgress: (progress) => display.update({ ...progress, doing: phaseWords[progress.phase] }),
    },
  );
  await display[Symbol.asyncDispose]();
  printWarnings(environment, outcome.warnings);
  printResult(environment, form, {
    document: toBackupOutput(outcome, session),
    lines: backupLines(outcome),
  });
  return 0;
}

function wantedConsistency(input: CommandInput): Consistency {
  const word = input.text("consistency");
  return consistencies.find((level) => level === word) ?? "application";
}

function describeSnapshot(snapshot: VmSnapshot): string {
  const { consistency, reason, frozenMs } = snapshot.consistency;
  const frozen = frozenMs === undefined ? "" : `, guest frozen for ${formatDuration(frozenMs)}`;
  const why = reason === undefined ? "" : ` (${reason})`;
  return `Snapshot of ${snapshot.disks.length} disks: ${consistency}-consistent${why}${frozen}`;
}
