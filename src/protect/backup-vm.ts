/**
 * Backs up a VM: one instant of all disks, what changed since the last recovery point, all disks in
 * parallel into one new point.
 *
 * The snapshot becomes the base of the next increment only by being named in a committed point.
 * Older snapshots are merged after the commit; those of runs that failed go with them.
 */
import { isKluisError } from "#base/kluis-error.ts";
import type { Hypervisor, SnapshotDisk, SnapshotRequest, VmSnapshot } from "#ports/hypervisor.ts";
import type { VmConfigurations } from "#ports/vm-configurations.ts";
import type { NewDisk, RecoveryPoint } from "#vault/recovery-point.ts";
import {
  assertGoingOn,
  type BackupDeps,
  type BackupOutcome,
  compareDisk,
  type DiskMethod,
  toBase,
  toWarning,
  writeOptions,
} from "#protect/backup-run.ts";
import { orderPointId } from "#protect/point-order.ts";

/** Snapshots of runs that failed may pile up to this many before the base is given up. */
export const snapshotsMax = 8;

/** What a VM's backup needs beside the vault. */
export interface VmBackupDeps extends BackupDeps {
  readonly hypervisor: Hypervisor;
  readonly configurations: VmConfigurations;
  /** Told once the guest goes on. */
  readonly onSnapshot?: (snapshot: VmSnapshot) => void;
}

/** A VM and how to take its instant. */
export interface VmBackupRequest extends SnapshotRequest {
  readonly vmId: string;
  readonly itemId: string;
}

/** The id of a VM as a protected item. */
export function toVmItemId(vmId: string): string {
  return `vm:${vmId}`;
}

/**
 * Takes a snapshot and writes a recovery point of it. On any error nothing was committed, the VM
 * goes on, and the base of the next increment is where it was.
 */
export async function backupVm(
  request: VmBackupRequest,
  deps: VmBackupDeps,
): Promise<BackupOutcome> {
  const { hypervisor, vault, signal } = deps;
  const startMs = deps.clock.monotonicMs();
  const vm = await hypervisor.get(request.vmId, signal);
  const vmConfiguration = await deps.configurations.read(vm.id, signal);
  const base = await vault.readNewestPoint(request.itemId, signal);
  const leftOver = await hypervisor.listSnapshots(vm.id, signal);
  const snapshot = await hypervisor.takeSnapshot(vm.id, request, signal);
  deps.onSnapshot?.(snapshot);
  if (leftOver.length >= snapshotsMax) await giveUpBase(vm.id, snapshot.id, deps);
  const order = orderPointId(snapshot.takenAtMs, base?.pointId, deps.random);
  const run = new SnapshotRun(snapshot, base, deps);
  await using owned = run;
  const disks = await run.prepare();
  const { consistency, reason, frozenMs, evidence } = snapshot.consistency;
  const written = await vault.writePoint(
    {
      point: {
        pointId: order.pointId,
        itemId: request.itemId,
        itemName: vm.name,
        takenAtMs: snapshot.takenAtMs,
        consistency,
        ...(reason === undefined ? {} : { consistencyReason: reason }),
        ...(evidence === undefined ? {} : { consistencyEvidence: JSON.stringify(evidence) }),
        ...(frozenMs === undefined ? {} : { frozenMs: Math.round(frozenMs) }),
        ...(base === undefined || disks.every((disk) => disk.increment === undefined)
          ? {}
          : { basePointId: base.pointId }),
        snapshotId: snapshot.id,
        vmConfiguration,
      },
      disks,
    },
    writeOptions(deps),
  );
  const durationMs = deps.clock.monotonicMs() - startMs;
  await owned[Symbol.asyncDispose]();
  const late = await releaseOlder(vm.id, snapshot.id, deps);
  return { ...written, durationMs, warnings: [...order.warnings, ...written.warnings, ...late] };
}

/** Merges everything older although no point needs the new snapshot yet: layers must not pile up. */
async function giveUpBase(vmId: string, keepId: string, deps: VmBackupDeps): Promise<void> {
  try {
    await deps.hypervisor.releaseSnapshotsBefore(vmId, keepId, deps.signal);
  } catch (error) {
    // Somebody reads one of them: it stays, and this run goes on.
    if (!isKluisError(error, "SnapshotInUse")) throw error;
  }
}

/** Merges what is older than the new base. The point is committed, so a failure only delays. */
async function releaseOlder(
  vmId: string,
  keepId: string,
  deps: VmBackupDeps,
): Promise<readonly string[]> {
  try {
    await deps.hypervisor.releaseSnapshotsBefore(vmId, keepId, deps.signal);
    return [];
  } catch (error) {
    const done = "the recovery point is committed; the next backup merges the older snapshots";
    if (deps.signal?.aborted === true && !isKluisError(error)) {
      return [`Cannot merge older snapshots: the work was cancelled (${done})`];
    }
    return [toWarning(error, done)];
  }
}

/** The readers of one run; disposing closes them, which lets the snapshots go. */
class SnapshotRun implements AsyncDisposable {
  readonly #snapshot: VmSnapshot;
  readonly #base: RecoveryPoint | undefined;
  readonly #deps: VmBackupDeps;
  readonly #owned = new AsyncDisposableStack();

  constructor(snapshot: VmSnapshot, base: RecoveryPoint | undefined, deps: VmBackupDeps) {
    this.#snapshot = snapshot;
    this.#base = base;
    this.#deps = deps;
  }

  /**
   * Opens every disk and finds out what changed. One disk after the other: a comparison by checksum
   * keeps all workers busy by itself, and its memory must not grow with the number of disks.
   */
  async prepare(): Promise<readonly NewDisk[]> {
    const disks: NewDisk[] = [];
    for (const disk of this.#snapshot.disks) {
      assertGoingOn(this.#deps.signal);
      const reader = this.#owned.use(await disk.open(this.#deps.signal));
      disks.push({ name: disk.name, reader, ...(await this.#method(disk, reader)) });
    }
    return disks;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned.disposeAsync();
  }

  async #method(disk: SnapshotDisk, reader: NewDisk["reader"]): Promise<DiskMethod> {
    const base = this.#base;
    if (base === undefined) return { tracking: "full" };
    const baseDisk = base.disks.find((candidate) => candidate.name === disk.name);
    if (baseDisk === undefined) {
      const trackingReason = `recovery point ${base.pointId} has no disk "${disk.name}"`;
      return { tracking: "full", trackingReason };
    }
    const { signal, vault } = this.#deps;
    const answer =
      base.snapshotId === undefined
        ? ({ known: false, reason: "the last recovery point was made without a snapshot" } as const)
        : await disk.changesSince(base.snapshotId, signal);
    if (!answer.known) {
      const comparison = { name: disk.name, reader, baseDisk, reason: answer.reason };
      return await compareDisk(comparison, this.#deps, this.#owned);
    }
    const frozen =
      base.snapshotId === undefined ? undefined : await disk.openBase(base.snapshotId, signal);
    const baseReader = this.#owned.use(frozen ?? vault.openDisk(baseDisk));
    return {
      increment: { base: toBase(baseDisk, baseReader), changes: answer.extents },
      tracking: "snapshot-difference",
    };
  }
}
