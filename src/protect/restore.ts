/** Restores disks of a recovery point: looks at the targets, plans, writes them in parallel. */
import { present } from "#base/assert.ts";
import { Semaphore } from "#base/semaphore.ts";
import type { Clock } from "#base/clock.ts";
import type { ImageAccess, TargetInfo } from "#ports/source-image.ts";
import type { DiskReader } from "#ports/disk.ts";
import type { VmSnapshot } from "#ports/hypervisor.ts";
import { copyToTarget, type RecoveryPoint, type RestoredBytes } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import {
  type PlannedDisk,
  planRestore,
  type RestorablePoint,
  type RestorePlan,
  type RestoreRequest,
} from "#protect/plan-restore.ts";

/** Disks that are written at once; they share threads and memory. */
export const disksInParallel = 4;

/** How far one disk is. */
export interface RestoreProgress {
  readonly disk: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** Opens the content of a disk by its name; the caller disposes the reader. */
export type OpenDisk = (name: string, signal: AbortSignal) => Promise<DiskReader>;

/** Content of a recovery point out of its vault. */
export function fromVault(vault: Vault, point: RecoveryPoint): OpenDisk {
  const disks = new Map(point.disks.map((disk) => [disk.name, disk]));
  return (name) =>
    Promise.resolve(
      vault.openDisk(present(disks.get(name), "a plan names disks of its point"), true),
    );
}

/** Content of a recovery point out of its snapshot, which is held while a reader is open. */
export function fromSnapshotDisks(snapshot: VmSnapshot): OpenDisk {
  const disks = new Map(snapshot.disks.map((disk) => [disk.name, disk]));
  return (name, signal) => present(disks.get(name), "a plan names disks of its point").open(signal);
}

/** What a restore needs. */
export interface RestoreDeps {
  /** Where the content comes from: {@link fromVault}, or the snapshot that is the point. */
  readonly openDisk: OpenDisk;
  readonly images: ImageAccess;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: RestoreProgress) => void;
}

/** A disk that was restored. */
export interface RestoredDiskOutcome extends RestoredBytes {
  readonly planned: PlannedDisk;
  readonly durationMs: number;
}

/** A restore that is complete and durable. */
export interface RestoreOutcome {
  readonly disks: readonly RestoredDiskOutcome[];
  readonly durationMs: number;
}

/** Looks at every target and plans; touches nothing. Errors of `planRestore`, Nbd*. */
export async function prepareRestore(
  point: RestorablePoint,
  request: RestoreRequest,
  deps: Pick<RestoreDeps, "images" | "signal">,
): Promise<RestorePlan> {
  const found = new Map<string, TargetInfo>();
  for (const { place } of request.targets) {
    found.set(place, await deps.images.inspectTarget(place, deps.signal));
  }
  return planRestore(point, request, found);
}

/**
 * Writes every disk of the plan. A target gets its name when it is complete; if one disk fails, the
 * others stop, and what is incomplete is removed. Disks that were complete by then stay.
 *
 * Errors: Target*, ObjectCorrupt, ObjectNotFound, BlockMissing, those of the store.
 */
export async function applyRestore(plan: RestorePlan, deps: RestoreDeps): Promise<RestoreOutcome> {
  const startMs = deps.clock.monotonicMs();
  const failed = new AbortController();
  const signal =
    deps.signal === undefined ? failed.signal : AbortSignal.any([deps.signal, failed.signal]);
  const disksAtOnce = Math.max(1, Math.min(plan.disks.length, disksInParallel));
  const permits = new Semaphore(disksAtOnce);
  let failure: { readonly error: unknown } | undefined;
  const work = plan.disks.map((planned) =>
    permits
      .run(async () => {
        signal.throwIfAborted();
        return await restoreOne(planned, { ...deps, signal, disksAtOnce });
      })
      .catch((error: unknown) => {
        failure ??= { error };
        failed.abort(error);
        return undefined;
      }),
  );
  const disks = await Promise.all(work);
  if (failure !== undefined) throw failure.error;
  return {
    disks: disks.filter((disk) => disk !== undefined),
    durationMs: deps.clock.monotonicMs() - startMs,
  };
}

async function restoreOne(
  planned: PlannedDisk,
  deps: RestoreDeps & { readonly signal: AbortSignal; readonly disksAtOnce: number },
): Promise<RestoredDiskOutcome> {
  const { disk, place, format, overwrite, passphrase } = planned;
  const startMs = deps.clock.monotonicMs();
  await using reader = await deps.openDisk(disk.name, deps.signal);
  await using writer = await deps.images.createTarget(
    {
      place,
      format,
      sizeBytes: disk.sizeBytes,
      overwrite,
      ...(passphrase === undefined ? {} : { passphrase }),
    },
    deps.signal,
  );
  const bytes = await copyToTarget(reader, writer, {
    disksAtOnce: deps.disksAtOnce,
    signal: deps.signal,
    onProgress: (doneBytes) =>
      deps.onProgress?.({ disk: disk.name, doneBytes, totalBytes: disk.sizeBytes }),
  });
  return { planned, ...bytes, durationMs: deps.clock.monotonicMs() - startMs };
}
