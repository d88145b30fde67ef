/**
 * A backup of a running VM without a snapshot tier: an instant is kept aside while it is sent, and the
 * recovery point is in the vault or nowhere; see docs/design/fleecing.md.
 */
import type { FleecedSnapshot } from "#ports/hypervisor.ts";
import { type BackupOutcome, toWarning } from "#protect/backup-run.ts";
import { orderPointId } from "#protect/point-order.ts";
import { assertSnapshotSpace } from "#protect/snapshot-space.ts";
import type { TakeSnapshotDeps, TakeSnapshotRequest } from "#protect/take-vm-snapshot.ts";
import { sendSnapshot, type TransferDeps } from "#protect/transfer-snapshot.ts";
import { watchSpace } from "#protect/watch-space.ts";
import type { Vault } from "#vault/vault.ts";

/** A VM and how its instant is taken; there are no days, since it is not kept. */
export type FleecedBackupRequest = Omit<TakeSnapshotRequest, "days">;

/** What the job needs. */
export interface FleecedBackupDeps
  extends TakeSnapshotDeps, Omit<TransferDeps, keyof TakeSnapshotDeps> {}

/**
 * Runs the job; the answer is the point in the vault. On an error there is none, the VM goes on, and
 * what changed since the last point stays known.
 *
 * Errors: Busy (backoff) where another transfer runs; VmStateWrong, SnapshotNoSpace (after-change);
 * those of the hypervisor, the configurations and the vault.
 */
export async function backupFleecedVm(
  request: FleecedBackupRequest,
  deps: FleecedBackupDeps,
): Promise<BackupOutcome> {
  const { hypervisor, clock, signal } = deps;
  const { vmId, itemId, space, ...wish } = request;
  const startMs = clock.monotonicMs();
  const vm = await hypervisor.get(vmId, signal);
  const vmConfiguration = await deps.configurations.read(vm.id, signal);
  assertSnapshotSpace(await hypervisor.readSpace(vm.id, wish.disks, signal), space);
  // What cannot be sent now need not be taken: it is not kept.
  const vault = await deps.openVault();
  const newest = (await vault.listPoints(itemId, signal)).at(-1)?.pointId;
  const { pointId, warnings } = orderPointId(clock.nowMs(), newest, deps.random);
  const { snapshotId } = (await vault.readNewestPoint(itemId, signal)) ?? {};
  const preparationMs = Math.round(clock.monotonicMs() - startMs);
  const label = { pointId, itemId, itemName: vm.name, vmConfiguration, days: 1, preparationMs };
  const { reserveBytes } = space;
  const base = snapshotId === undefined ? {} : { base: { vaultId: vault.id, snapshotId } };
  const wanted = { ...wish, ...base, label, reserveBytes };
  await using fleece = await hypervisor.takeFleecedSnapshot(vm.id, wanted, signal);
  deps.onSnapshot?.(fleece);
  const outcome = await watchSpace(
    { vmId: vm.id, disks: fleece.disks.map(({ name }) => name), space },
    deps,
    (ends) => sendSnapshot(fleece, label, { ...deps, vault, signal: ends }),
  );
  const late = await finish(fleece, vault);
  const durationMs = clock.monotonicMs() - startMs;
  return {
    ...outcome,
    durationMs,
    warnings: [...warnings, ...fleece.notes, ...outcome.warnings, ...late],
  };
}

/** The point is committed, so that what fails now costs time, not the point. */
async function finish(fleece: FleecedSnapshot, vault: Vault): Promise<readonly string[]> {
  const warnings: string[] = [];
  try {
    await fleece.markBase(vault.id);
  } catch (error) {
    warnings.push(toWarning(error, "the recovery point is committed; the next backup goes on"));
  }
  try {
    await fleece[Symbol.asyncDispose]();
  } catch (error) {
    const done = "the recovery point is committed; the next backup takes the filters out";
    warnings.push(toWarning(error, done));
  }
  return warnings;
}
