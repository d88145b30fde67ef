import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type {
  Consistency,
  DiskSelection,
  SnapshotRequest,
  Vm,
  VmSnapshot,
} from "#ports/hypervisor.ts";
import { backupFleecedVm } from "#protect/backup-fleeced-vm.ts";
import { backupVm, toVmItemId } from "#protect/backup-vm.ts";
import { fromSnapshot } from "#protect/vm-points.ts";
import type { Vault } from "#vault/vault.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment, Vms } from "#cli/environment.ts";
import { vaultExits, vmExits } from "#cli/exit-codes.ts";
import { formatDuration } from "#cli/format.ts";
import { openVaultSession, type VaultSession } from "#cli/open-vault.ts";
import { chooseVm, openVmsOf } from "#cli/open-vms.ts";
import {
  keyOptions,
  outputOption,
  optionalStoreOption,
  verifyBeforeCommitOption,
  vmArgument,
  vmItemOption,
  vmOptions,
  workOptions,
} from "#cli/options.ts";
import { outputFormOf, printResult, printWarnings } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";
import { backupLines, phaseWords, printBackup } from "#cli/render-backup.ts";
import { snapshotLines, toJobDocument } from "#cli/render-job.ts";
import { readSnapshotDays, readSpaceWish, snapshotOptions } from "#cli/snapshot-options.ts";

const consistencies = ["application", "file-system", "crash"] as const;
const freezeBudgetMs = { min: 1000, max: 10_000, usual: 8000 } as const;

/** `kluis vm backup`. */
export const vmBackup: CommandSpec = {
  words: ["vm", "backup"],
  summary: "make a recovery point of a VM, all disks at one instant",
  description:
    "Takes a snapshot: runs the guest's pre script where it has one, freezes its file systems for a moment (in a " +
    "Windows guest by VSS), takes all disks at one instant, and runs the post script. From then on the recovery " +
    "point exists and is restored from the snapshot. Then sends what changed since the newest point of the vault, all disks in parallel, under the " +
    "same id. A point that is less consistent than was asked for says why. A transfer that fails, or is skipped " +
    "because another one runs, leaves the snapshot to the next one; where it fails the exit code is that of its " +
    "error. Last, snapshots expire whose days are over; the newest and the base of the next transfer stay. " +
    "Without a snapshot tier nothing is put below the disks of the running VM: what it overwrites is copied aside " +
    "while the point is sent, what changed since is told by dirty bitmaps as long as the VM runs, by checksums " +
    "after a stop; the point is in the vault or nowhere.",
  arguments: [vmArgument],
  options: [
    optionalStoreOption,
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
      flags: "--vss-copy",
      text: "VSS of a Windows guest makes a copy backup, which leaves the logs of its databases alone",
    },
    {
      flags: "--freeze-budget <ms>",
      text: "longest time that the guest may stay frozen, 1000 to 10000",
      otherwise: String(freezeBudgetMs.usual),
    },
    {
      flags: "--disk <name>",
      text: "disk to take, beside the OS disk, which always is; default: all",
      repeated: true,
    },
    {
      flags: "--exclude-disk <name>",
      text: "disk to leave out; a VM restored from the point has none of that name",
      repeated: true,
    },
    {
      flags: "--no-snapshot-tier",
      text: "send an instant that is not kept: where the image files can or shall have no layers",
    },
    { flags: "--snapshot-only", text: "take the snapshot and send nothing; needs no --store" },
    ...snapshotOptions,
    vmItemOption,
    ...workOptions,
    verifyBeforeCommitOption,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vm backup web --vms /etc/kluis/vms --store /srv/vault --key-file /etc/kluis/key",
      text: "First time: everything; after that: what changed.",
    },
    {
      line: "kluis vm backup web --vms /etc/kluis/vms --snapshot-only --snapshot-days 1",
      text: "A recovery point on this host, for kluis vm transfer to send later.",
    },
    {
      line: "kluis vm backup web --connect qemu:///system --no-snapshot-tier --store /srv/vault --key-file /etc/kluis/key",
      text: "A VM whose disks stay as they are.",
    },
  ],
  exits: [...vaultExits, 22, 24, ...vmExits],
  outputKind: "backup",
  run: runVmBackup,
};

async function runVmBackup(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const form = outputFormOf(input);
  const instant = readInstantWish(input);
  const wish = { days: readSnapshotDays(input), space: readSpaceWish(input) };
  const isKept = !input.isOff("snapshotTier");
  if (!isKept) assertNotKept(input);
  await using vms = await openVmsOf(input, environment);
  const { hypervisor, configurations } = vms;
  const vm = await chooseVm(input, hypervisor, environment.signal);
  if (!isKept) return await backUpWithoutTier(input, environment, { vms, vm });
  await using owned = new AsyncDisposableStack();
  const opened = await openVaultOf(input, environment);
  if (opened !== undefined && !isKluisError(opened)) owned.use(opened);
  await using display = new ProgressDisplay({ ...environment, form });
  const job = await backupVm(
    {
      vmId: vm.id,
      itemId: input.text("item") ?? toVmItemId(vm.id),
      ...instant,
      ...wish,
    },
    {
      ...environment,
      hypervisor,
      configurations,
      ...(opened === undefined ? {} : { openVault: () => vaultOf(opened) }),
      onSnapshot: (snapshot) => display.note(describeSnapshot(snapshot)),
      onProgress: (progress) => display.update({ ...progress, doing: phaseWords[progress.phase] }),
    },
  );
  await display[Symbol.asyncDispose]();
  printWarnings(environment, job.warnings);
  const point = fromSnapshot(job.taken.snapshot);
  const { transfer } = job;
  const session = opened === undefined || isKluisError(opened) ? undefined : opened;
  printResult(environment, form, {
    document: toJobDocument(job, point, session),
    lines:
      transfer.status === "Completed" ? backupLines(transfer.outcome) : snapshotLines(job, point),
  });
  // The recovery point is there, and its tiers are not what was asked for.
  if (transfer.status === "Failed") throw transfer.error;
  return 0;
}

function selectedDisks(input: CommandInput): DiskSelection {
  const include = input.texts("disk");
  return { exclude: input.texts("excludeDisk"), ...(include.length === 0 ? {} : { include }) };
}

async function backUpWithoutTier(
  input: CommandInput,
  environment: CliEnvironment,
  { vms, vm }: { readonly vms: Vms; readonly vm: Vm },
): Promise<number> {
  const form = outputFormOf(input);
  const { hypervisor, configurations } = vms;
  const open = { intent: "add", startThread: "writing" } as const;
  await using session = await openVaultSession(input, environment, open);
  await using display = new ProgressDisplay({ ...environment, form });
  const outcome = await backupFleecedVm(
    {
      vmId: vm.id,
      itemId: input.text("item") ?? toVmItemId(vm.id),
      ...readInstantWish(input),
      space: readSpaceWish(input),
    },
    {
      ...environment,
      hypervisor,
      configurations,
      openVault: () => Promise.resolve(session.vault),
      onSnapshot: (snapshot) => display.note(describeSnapshot(snapshot)),
      onProgress: (progress) => display.update({ ...progress, doing: phaseWords[progress.phase] }),
    },
  );
  await display[Symbol.asyncDispose]();
  printBackup(environment, form, { outcome, session });
  return 0;
}

function assertNotKept(input: CommandInput): void {
  const isAsked = input.flag("snapshotOnly") || input.text("snapshotDays") !== undefined;
  if (!isAsked) return;
  throw new KluisError(
    "ArgumentInvalid",
    "Cannot keep a snapshot: --no-snapshot-tier goes with neither --snapshot-only nor --snapshot-days",
  );
}

/** How the instant is taken. ArgumentInvalid (after-change). */
function readInstantWish(input: CommandInput): Omit<SnapshotRequest, "label"> {
  const word = input.text("consistency");
  const consistency: Consistency = consistencies.find((level) => level === word) ?? "application";
  return {
    consistency,
    freezeBudgetMs: input.count("freezeBudget", freezeBudgetMs) ?? freezeBudgetMs.usual,
    mountsToSkip: input.texts("skipMount"),
    mayFreezeUnwatched: input.flag("freezeUnwatched"),
    isVssCopy: input.flag("vssCopy"),
    disks: selectedDisks(input),
  };
}

/**
 * The vault; `undefined` where only a snapshot is wanted. One that does not answer now is an error of
 * the transfer: the snapshot is taken all the same.
 */
async function openVaultOf(
  input: CommandInput,
  environment: CliEnvironment,
): Promise<VaultSession | KluisError | undefined> {
  if (input.flag("snapshotOnly")) return undefined;
  try {
    return await openVaultSession(input, environment, { intent: "add", startThread: "writing" });
  } catch (error) {
    if (isKluisError(error) && error.entry.retry === "backoff") return error;
    throw error;
  }
}

function vaultOf(opened: VaultSession | KluisError): Promise<Vault> {
  return isKluisError(opened) ? Promise.reject(opened) : Promise.resolve(opened.vault);
}

function describeSnapshot(snapshot: VmSnapshot): string {
  const { consistency, reason, frozenMs } = snapshot.consistency;
  const frozen = frozenMs === undefined ? "" : `, guest frozen for ${formatDuration(frozenMs)}`;
  const why = reason === undefined ? "" : ` (${reason})`;
  return `Snapshot of ${snapshot.disks.length} disks: ${consistency}-consistent${why}${frozen}`;
}
