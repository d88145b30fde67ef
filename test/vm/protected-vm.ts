/** A driven lab VM with a vault beside it, for tests of backups and restores. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { systemClock } from "#base/clock.ts";
import { systemRandom } from "#base/random.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { createVmConfigurations } from "#drivers/qemu/vm-configurations.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import type { DiskReader } from "#ports/disk.ts";
import type { Hypervisor } from "#ports/hypervisor.ts";
import type { VmConfigurations } from "#ports/vm-configurations.ts";
import { backupFleecedVm, type FleecedBackupRequest } from "#protect/backup-fleeced-vm.ts";
import type { BackupOutcome } from "#protect/backup-run.ts";
import { backupVm, toVmItemId, type VmBackupDeps, type VmBackupJob } from "#protect/backup-vm.ts";
import { fromVault } from "#protect/restore.ts";
import type { TakeSnapshotRequest } from "#protect/take-vm-snapshot.ts";
import { restoreVm, type VmRestoreOutcome } from "#protect/restore-vm.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import { createDrivenVm, type DrivenVm, type DrivenVmOptions } from "./driven-vm.ts";

/** What a test may change of a job. */
export type BackUpOptions = Partial<
  TakeSnapshotRequest & Pick<VmBackupDeps, "signal" | "onSnapshot" | "openVault" | "clock">
>;

/** A vault beside a VM, and the job that backs the VM up to it. */
export interface Protection extends AsyncDisposable {
  readonly store: FaultyStore;
  readonly vault: Vault;
  /** Folder of the store. */
  readonly storePath: string;
  /** Runs the whole job. */
  runJob(options?: BackUpOptions): Promise<VmBackupJob>;
  /** The same where the transfer has to succeed; throws its error. */
  backUp(options?: BackUpOptions): Promise<BackupOutcome>;
  /** Makes a recovery point without a snapshot tier, by another driver of the same VM. */
  backUpFleeced(by: Hypervisor, request?: Partial<FleecedBackupRequest>): Promise<BackupOutcome>;
}

/** A VM of any driver. */
export interface ProtectableVm {
  readonly vmId: string;
  readonly hypervisor: Hypervisor;
  readonly configurations: VmConfigurations;
  /** Where the vault's folder is made. */
  readonly directory: string;
}

/** A VM with a vault. */
export interface ProtectedVm extends Protection {
  readonly vm: DrivenVm;
  /** Restores all disks as a new VM `name` in a folder of its own. */
  restore(
    point: RecoveryPoint,
    name: string,
    format?: "raw" | "qcow2",
  ): Promise<VmRestoreOutcome & { readonly directory: string }>;
}

/** Makes an empty vault for a VM. */
export async function protectVm(vm: ProtectableVm): Promise<Protection> {
  const { vmId, hypervisor, configurations } = vm;
  const storePath = join(vm.directory, "vault");
  const store = new FaultyStore(await openFileStore(storePath, { create: true }));
  const vault = await openTestVault({ store, workers: 2 });
  const runJob: Protection["runJob"] = ({
    signal,
    onSnapshot,
    clock,
    openVault,
    ...request
  } = {}) =>
    backupVm(
      {
        vmId,
        itemId: toVmItemId(vmId),
        consistency: "file-system",
        freezeBudgetMs: 10_000,
        days: 2,
        space: { firstFreePercent: 50, reserveBytes: 0 },
        ...request,
      },
      {
        clock: clock ?? systemClock,
        random: systemRandom,
        hypervisor,
        configurations,
        openVault: openVault ?? (() => Promise.resolve(vault)),
        ...(signal === undefined ? {} : { signal }),
        ...(onSnapshot === undefined ? {} : { onSnapshot }),
      },
    );
  return {
    store,
    vault,
    storePath,
    runJob,
    backUp: async (options) => {
      const { transfer, warnings } = await runJob(options);
      if (transfer.status === "Failed") throw transfer.error;
      if (transfer.status === "Skipped") throw new Error(`skipped: ${transfer.reason}`);
      return { ...transfer.outcome, warnings };
    },
    backUpFleeced: (by, request) =>
      backupFleecedVm(
        {
          vmId,
          itemId: toVmItemId(vmId),
          consistency: "file-system",
          freezeBudgetMs: 10_000,
          space: { firstFreePercent: 0, reserveBytes: 0 },
          ...request,
        },
        {
          clock: systemClock,
          random: systemRandom,
          hypervisor: by,
          configurations,
          openVault: () => Promise.resolve(vault),
        },
      ),
    [Symbol.asyncDispose]: () => vault[Symbol.asyncDispose](),
  };
}

/** Makes a stopped VM and an empty vault. */
export async function createProtectedVm(options: DrivenVmOptions = {}): Promise<ProtectedVm> {
  await using owned = new AsyncDisposableStack();
  const vm = owned.use(await createDrivenVm(options));
  const { vmId, hypervisor, lab } = vm;
  const { directory } = lab;
  const configurations = createVmConfigurations(vm.options.descriptionPaths);
  const protection = owned.use(await protectVm({ vmId, hypervisor, configurations, directory }));
  const kept = owned.move();
  return {
    ...protection,
    vm,
    restore: async (point, name, format = "raw") => {
      const folder = join(directory, name);
      await mkdir(folder);
      const targets = point.disks.map((disk) => ({
        diskName: disk.name,
        place: join(folder, `${disk.name}.${format}`),
        format,
      }));
      const configuration = point.vmConfiguration ?? "";
      const outcome = await restoreVm(
        point,
        { directory: folder, targets, configuration, name },
        {
          clock: systemClock,
          openDisk: fromVault(protection.vault, point),
          images: imageAccess,
          configurations: createVmConfigurations([]),
        },
      );
      return { ...outcome, directory: folder };
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

const compareBytes = 4 * 1024 * 1024;

/** The first place where two disks differ; `undefined` where they are equal. */
export async function findDifference(a: DiskReader, b: DiskReader): Promise<number | undefined> {
  if (a.sizeBytes !== b.sizeBytes) return Math.min(a.sizeBytes, b.sizeBytes);
  const [all, others] = [Buffer.alloc(compareBytes), Buffer.alloc(compareBytes)];
  for (let at = 0; at < a.sizeBytes; at += compareBytes) {
    const lengthBytes = Math.min(compareBytes, a.sizeBytes - at);
    const [left, right] = [all.subarray(0, lengthBytes), others.subarray(0, lengthBytes)];
    await Promise.all([a.read(at, left), b.read(at, right)]);
    if (left.equals(right)) continue;
    return at + left.findIndex((byte, index) => byte !== right[index]);
  }
  return undefined;
}
