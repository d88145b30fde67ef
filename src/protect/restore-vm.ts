/** Restores a VM: its disks, and last a configuration that starts from them. */
import type { VmConfigurations } from "#ports/vm-configurations.ts";
import type { RestorablePoint, WantedTarget } from "#protect/plan-restore.ts";
import {
  applyRestore,
  prepareRestore,
  type RestoreDeps,
  type RestoreOutcome,
} from "#protect/restore.ts";

/** A VM to make from a recovery point. */
export interface VmRestoreRequest {
  /** Folder of the new configuration; absolute. */
  readonly directory: string;
  readonly targets: readonly WantedTarget[];
  /** That of the recovery point. */
  readonly configuration: string;
  /** By default the name that the VM had. */
  readonly name?: string;
}

/** A restored VM that can be started. */
export interface VmRestoreOutcome {
  readonly outcome: RestoreOutcome;
  /** Path of the new configuration. */
  readonly configuration: string;
}

/**
 * Writes the disks and then the configuration: without the last step there is no VM, so that none
 * is started from disks that are not complete. Nothing that exists is replaced. Disks that the
 * configuration has as encrypted are, under the passphrases of this host.
 *
 * Errors: those of `prepareRestore` and `applyRestore`; ConfigInvalid, TargetExists for the
 * configuration, DiskKeyUnusable, before any disk is written.
 */
export async function restoreVm(
  point: RestorablePoint,
  request: VmRestoreRequest,
  deps: RestoreDeps & { readonly configurations: VmConfigurations },
): Promise<VmRestoreOutcome> {
  const { directory, configuration, name, targets } = request;
  const vm = { directory, configuration, ...(name === undefined ? {} : { name }) };
  await deps.configurations.check(vm, deps.signal);
  const names = targets.map(({ diskName }) => diskName);
  const keys = await deps.configurations.readDiskKeys(configuration, names, deps.signal);
  const sealed = targets.map((target) => {
    const passphrase = keys.get(target.diskName);
    return passphrase === undefined ? target : { ...target, passphrase };
  });
  const plan = await prepareRestore(point, { targets: sealed, overwrite: false }, deps);
  const outcome = await applyRestore(plan, deps);
  const disks = plan.disks.map(({ diskName, place, format }) => ({
    name: diskName,
    path: place,
    format,
  }));
  const path = await deps.configurations.create({ ...vm, disks }, deps.signal);
  return { outcome, configuration: path };
}
