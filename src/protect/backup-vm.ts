/**
 * The backup job of a VM: "Take Snapshot", then "Transfer data to vault", then expiry of snapshots.
 * What the job comes to is the table of docs/design/snapshots.md.
 */
import { isKluisError } from "#base/kluis-error.ts";
import { assertGoingOn, toWarning } from "#protect/backup-run.ts";
import { expireSnapshots, type ExpiryReport } from "#protect/expire-snapshots.ts";
import {
  type TakenSnapshot,
  takeVmSnapshot,
  type TakeSnapshotDeps,
  type TakeSnapshotRequest,
} from "#protect/take-vm-snapshot.ts";
import { type Transfer, type TransferDeps, transferSnapshot } from "#protect/transfer-snapshot.ts";

/** What the job needs; without `openVault` only the snapshot is taken. */
export interface VmBackupDeps
  extends TakeSnapshotDeps, Omit<TransferDeps, "openVault" | keyof TakeSnapshotDeps> {
  readonly openVault?: TransferDeps["openVault"];
}

/** What a job came to; one without a snapshot has failed, and throws. */
export type JobStatus = "Completed" | "CompletedWithWarnings";

/** A job that has ended. */
export interface VmBackupJob {
  readonly status: JobStatus;
  readonly taken: TakenSnapshot;
  readonly transfer: Transfer;
  readonly expiry: ExpiryReport;
  readonly warnings: readonly string[];
  readonly durationMs: number;
}

/** The id of a VM as a protected item. */
export function toVmItemId(vmId: string): string {
  return `vm:${vmId}`;
}

/**
 * Runs the job. On an error there is no new recovery point, the VM goes on, and the base of the next
 * increment is where it was; a transfer that failed is no error but part of the answer.
 *
 * Errors: those of `takeVmSnapshot`; Cancelled and SnapshotNoSpace of `transferSnapshot`.
 */
export async function backupVm(
  request: TakeSnapshotRequest,
  deps: VmBackupDeps,
): Promise<VmBackupJob> {
  const startMs = deps.clock.monotonicMs();
  const taken = await takeVmSnapshot(request, deps);
  const { openVault } = deps;
  const transfer: Transfer =
    openVault === undefined
      ? { status: "Skipped", reason: "only the snapshot was asked for" }
      : await transferSnapshot(request, { ...deps, openVault });
  const expiry = await expire(request.vmId, taken, deps);
  const sent = transfer.status === "Completed" ? transfer.outcome.warnings : [];
  return {
    status: transfer.status === "Failed" ? "CompletedWithWarnings" : "Completed",
    taken,
    transfer,
    expiry,
    warnings: [...taken.warnings, ...sent, ...expiry.warnings],
    durationMs: deps.clock.monotonicMs() - startMs,
  };
}

/** Expires what is due. The recovery point is safe by now, so a failure only delays. */
async function expire(
  vmId: string,
  { madeRoom }: TakenSnapshot,
  deps: VmBackupDeps,
): Promise<ExpiryReport> {
  const before = madeRoom ?? { expired: [], early: [], warnings: [] };
  try {
    assertGoingOn(deps.signal);
    const report = await expireSnapshots(vmId, 0, deps);
    return {
      expired: [...before.expired, ...report.expired],
      early: [...before.early, ...report.early],
      warnings: [...before.warnings, ...report.warnings],
    };
  } catch (error) {
    const done = "the recovery point is safe; the next backup expires snapshots";
    const warning =
      deps.signal?.aborted === true && !isKluisError(error)
        ? `Cannot expire snapshots: the work was cancelled (${done})`
        : toWarning(error, done);
    return { ...before, warnings: [...before.warnings, warning] };
  }
}
