/** Ends fleeces: the one of this process when it is done with it, and what a dead one left. */
import { rm } from "node:fs/promises";

import type { Clock } from "#base/clock.ts";
import { endExports } from "#drivers/fleecing/fleece-exports.ts";
import { detachFleece } from "#drivers/fleecing/fleece-graph.ts";
import type { Monitor } from "#drivers/fleecing/monitor.ts";
import { removeDurably } from "./durable-file.ts";
import type { LayeredVm, RunningMachine } from "./layered-vm.ts";
import { acquireVmLock, type VmLock } from "./vm-lock.ts";
import { writeVmRecord } from "./vm-record-file.ts";
import { withoutFleece, type FleeceRecord, type VmRecord } from "./vm-record.ts";

/** The lock that whoever sends data of the VM holds. Errors: Busy (backoff). */
export function lockTransfer(vm: LayeredVm, signal: AbortSignal | undefined): Promise<VmLock> {
  const wait = { timeoutMs: 0, clock: vm.clock, signal, mayWaitFor: () => false };
  return acquireVmLock(vm.directory.transferLockPath, "transfer", wait);
}

/**
 * Ends the fleece of a process that is gone; the caller holds the VM's lock and, with `isOurs`, the
 * lock of transfers. Errors: Busy (backoff) where it is in use, QmpFailed.
 */
export async function settleFleece(
  vm: LayeredVm,
  machine: RunningMachine | undefined,
  found: { readonly record: VmRecord; readonly isOurs: boolean },
): Promise<VmRecord> {
  const { record } = found;
  const { fleece } = record;
  if (fleece === undefined) return record;
  // Without a machine whoever reads it is about to find out.
  const isTaken = found.isOurs || machine === undefined;
  await using _ = isTaken ? undefined : await lockTransfer(vm, undefined);
  await using monitor = await machine?.openMonitor();
  if (monitor !== undefined) await closeFleece(monitor, fleece, vm.clock);
  return await removeFleece(vm, record, fleece);
}

/** Takes a fleece out of QEMU; repeatable. Errors: QmpFailed. */
export async function closeFleece(
  monitor: Monitor,
  fleece: FleeceRecord,
  clock: Clock,
): Promise<void> {
  await endExports(monitor, fleece.disks, clock);
  await detachFleece(monitor, fleece.disks);
}

/** Removes the files of a fleece that no QEMU has open, and forgets it. */
export async function removeFleece(
  vm: LayeredVm,
  record: VmRecord,
  fleece: FleeceRecord,
): Promise<VmRecord> {
  await removeDurably(fleece.disks.map((disk) => disk.path));
  await rm(fleece.socketPath, { force: true });
  const written = await writeVmRecord(vm, withoutFleece(record));
  await vm.onStep("fleece-closed");
  return written;
}
