/** One operation on a VM: under its lock, with errors of the file system as errors of the operation. */
import { writeFile } from "node:fs/promises";

import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { LayeredVm } from "./layered-vm.ts";
import { acquireVmLock, type LockHolder, type OperationKind, type VmLock } from "./vm-lock.ts";

/** How long an operation waits for readers that open and for a merge that it asked to stop. */
const LOCK_TIMEOUT_MS = 120_000;

/** What is done to a VM. */
export interface VmOperation {
  readonly kind: OperationKind;
  readonly signal: AbortSignal | undefined;
}

/**
 * Does `work` under the VM's lock. Errors: Busy (backoff) where another operation holds it; those of
 * the work.
 */
export async function operateVm<T>(
  vm: LayeredVm,
  operation: VmOperation,
  work: () => Promise<T>,
): Promise<T> {
  const { kind, signal } = operation;
  try {
    await using _ = await lockVm(vm, kind, signal);
    return await work();
  } catch (error) {
    signal?.throwIfAborted();
    throw toOperationError(error, kind, vm.description.name);
  }
}

const operationErrors: Readonly<Record<OperationKind, readonly [ErrorCode, string]>> = {
  start: ["VmStartFailed", "start"],
  stop: ["VmStateWrong", "stop"],
  snapshot: ["SnapshotFailed", "take a snapshot of"],
  merge: ["SnapshotFailed", "release snapshots of"],
  detach: ["SnapshotFailed", "detach"],
  read: ["SnapshotFailed", "read a snapshot of"],
  transfer: ["SnapshotFailed", "transfer a snapshot of"],
  guest: ["AgentFailed", "look into"],
};

/** A full or read-only file system beside the images or below the state folder. */
function toOperationError(error: unknown, kind: OperationKind, vmId: string): unknown {
  const isSystem = error instanceof Error && "syscall" in error;
  if (isKluisError(error) || !isSystem) return error;
  const [code, what] = operationErrors[kind];
  return new KluisError(code, `Cannot ${what} VM "${vmId}": ${error.message}`, { cause: error });
}

/** Takes the VM's lock. A merge makes way for everything else; who opens a snapshot is waited for. */
function lockVm(
  vm: LayeredVm,
  kind: OperationKind,
  signal: AbortSignal | undefined,
): Promise<VmLock> {
  const { lockPath, mergeStopPath } = vm.directory;
  const mayWaitFor = async (holder: LockHolder): Promise<boolean> => {
    if (holder.kind === "read") return true;
    if (holder.kind !== "merge" || kind === "merge") return false;
    await writeFile(mergeStopPath, "");
    return true;
  };
  const wait = { timeoutMs: LOCK_TIMEOUT_MS, clock: vm.clock, signal, mayWaitFor };
  return acquireVmLock(lockPath, kind, wait);
}
