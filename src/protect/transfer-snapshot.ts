/**
 * The task "Transfer data to vault": sends the newest snapshot of a VM as the recovery point that it
 * is, so that it carries everything since the newest point of the vault. It reads frozen layers only:
 * the VM and Kluis may restart meanwhile. One that was cut off is taken up by the next, which finds in
 * the vault what was sent already.
 */
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { valueOf } from "#base/settled.ts";
import type { DiskReader } from "#ports/disk.ts";
import type {
  ChangesAnswer,
  Hypervisor,
  SnapshotDisk,
  SnapshotLabel,
  VmSnapshot,
} from "#ports/hypervisor.ts";
import type { NewDisk, RecoveryPoint } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import {
  assertGoingOn,
  type BackupDeps,
  type BackupOutcome,
  compareDisk,
  type DiskMethod,
  RunScope,
  toBase,
  toWarning,
  trustChanges,
  writeOptions,
} from "#protect/backup-run.ts";
import type { SpaceWish } from "#protect/snapshot-space.ts";
import { withSpaceWatch } from "#protect/watch-space.ts";

/** What the task needs. */
export interface TransferDeps extends Omit<BackupDeps, "vault"> {
  readonly hypervisor: Hypervisor;
  /** Asked for when there is something to send. */
  openVault(): Promise<Vault>;
}

/** Whose newest snapshot is sent. */
export interface TransferRequest {
  readonly vmId: string;
  readonly itemId: string;
  readonly space: Pick<SpaceWish, "reserveBytes">;
}

/** What became of a transfer. */
export type Transfer =
  | { readonly status: "Completed"; readonly outcome: BackupOutcome }
  /** Another one runs, or there is nothing that the vault does not have. */
  | { readonly status: "Skipped"; readonly reason: string }
  /** The snapshot is still there; the next transfer takes it up. */
  | { readonly status: "Failed"; readonly error: KluisError };

/**
 * Sends the newest snapshot. Errors: Cancelled; SnapshotNoSpace (after-change) where all snapshots were
 * given up for the guest; VmNotFound; what is no operating error. All others are in the answer.
 */
export async function transferSnapshot(
  request: TransferRequest,
  deps: TransferDeps,
): Promise<Transfer> {
  const { hypervisor, signal } = deps;
  let lock: AsyncDisposable;
  try {
    lock = await hypervisor.beginTransfer(request.vmId, signal);
  } catch (error) {
    if (!isKluisError(error, "Busy")) throw error;
    return { status: "Skipped", reason: "the previous transfer is still running" };
  }
  await using _ = lock;
  try {
    return await transferNewest(request, deps);
  } catch (error) {
    assertGoingOn(signal);
    if (!isKluisError(error)) throw error;
    const isGivenUp = isKluisError(error, "SnapshotNoSpace") && !(await findNewest(request, deps));
    if (isGivenUp) throw error;
    return { status: "Failed", error };
  }
}

/** The newest snapshot that is a recovery point of the item. */
async function findNewest(
  { vmId, itemId }: TransferRequest,
  { hypervisor, signal }: TransferDeps,
): Promise<VmSnapshot | undefined> {
  const snapshots = await hypervisor.listSnapshots(vmId, signal);
  return snapshots.findLast(({ label }) => label?.itemId === itemId);
}

async function transferNewest(request: TransferRequest, deps: TransferDeps): Promise<Transfer> {
  const { vmId, itemId } = request;
  const snapshot = await findNewest(request, deps);
  const label = snapshot?.label;
  if (snapshot === undefined || label === undefined) {
    return { status: "Skipped", reason: "there is no snapshot to send" };
  }
  const vault = await deps.openVault();
  const known = await vault.listPoints(itemId, deps.signal);
  const isThere = known.some(({ pointId }) => pointId === label.pointId);
  const base = { vaultId: vault.id, snapshotId: snapshot.id };
  if (isThere || snapshot.baseOf.includes(vault.id)) {
    // Whoever committed it may have died before it could note the base.
    await deps.hypervisor.markBase(vmId, base, deps.signal);
    return { status: "Skipped", reason: "the newest snapshot is in the vault already" };
  }
  const disks = snapshot.disks.map(({ name }) => name);
  const outcome = await withSpaceWatch({ ...request, disks }, deps, (signal) =>
    sendSnapshot(snapshot, label, { ...deps, vault, signal }),
  );
  return { status: "Completed", outcome: await noteBase(vmId, base, { deps, outcome }) };
}

/** The point is committed, so that a note which fails only makes a later expiry less sure. */
async function noteBase(
  vmId: string,
  base: { readonly vaultId: string; readonly snapshotId: string },
  run: { readonly deps: TransferDeps; readonly outcome: BackupOutcome },
): Promise<BackupOutcome> {
  const { deps, outcome } = run;
  try {
    await deps.hypervisor.markBase(vmId, base);
    return outcome;
  } catch (error) {
    const warning = toWarning(
      error,
      "the recovery point is committed; the next transfer notes its base",
    );
    return { ...outcome, warnings: [...outcome.warnings, warning] };
  }
}

/** Writes an instant as the recovery point that its label says. Errors: those of the readers and the vault. */
export async function sendSnapshot(
  snapshot: VmSnapshot,
  label: SnapshotLabel,
  deps: BackupDeps,
): Promise<BackupOutcome> {
  const { vault, clock, signal } = deps;
  const startMs = clock.monotonicMs();
  await using scope = new RunScope();
  const base = await vault.readNewestPoint(label.itemId, signal);
  const disks = await prepareDisks(snapshot, { base, deps, scope });
  const changesMs = Math.round(clock.monotonicMs() - startMs);
  const { consistency, reason, frozenMs, evidence } = snapshot.consistency;
  const { pointId, itemId, itemName, vmConfiguration, preparationMs = 0 } = label;
  const timing = { preparationMs, snapshotMs: snapshot.tookMs ?? 0, changesMs };
  const isIncrement = disks.some((disk) => disk.increment !== undefined);
  const written = await vault.writePoint(
    {
      point: {
        pointId,
        itemId,
        itemName,
        takenAtMs: snapshot.takenAtMs,
        consistency,
        ...(reason === undefined ? {} : { consistencyReason: reason }),
        ...(evidence === undefined ? {} : { consistencyEvidence: JSON.stringify(evidence) }),
        ...(frozenMs === undefined ? {} : { frozenMs: Math.round(frozenMs) }),
        ...(base === undefined || !isIncrement ? {} : { basePointId: base.pointId }),
        snapshotId: snapshot.id,
        vmConfiguration,
        timing,
      },
      disks,
    },
    writeOptions(deps),
  );
  const durationMs = clock.monotonicMs() - startMs;
  const warnings = [...scope.alerts, ...written.warnings, ...assessOrder(pointId, base)];
  return { ...written, durationMs, warnings };
}

/** A point is made with its snapshot, when the vault is not asked yet: another host's may be dated later. */
function assessOrder(pointId: string, base: RecoveryPoint | undefined): readonly string[] {
  if (base === undefined || base.pointId < pointId) return [];
  return [
    `recovery point ${pointId} is listed before ${base.pointId}, which is older: set the clocks of the hosts`,
  ];
}

/** What the disks of one transfer are made from. */
interface DiskRun {
  readonly base: RecoveryPoint | undefined;
  readonly deps: BackupDeps;
  readonly scope: RunScope;
}

/**
 * Opens every disk and finds out what changed. One disk after the other: a comparison by checksum
 * keeps all workers busy by itself, and its memory must not grow with the number of disks.
 */
async function prepareDisks(snapshot: VmSnapshot, run: DiskRun): Promise<readonly NewDisk[]> {
  const disks: NewDisk[] = [];
  for (const disk of snapshot.disks) {
    assertGoingOn(run.deps.signal);
    const prepared = await prepareDisk(disk, run);
    disks.push(disk.isEncrypted === true ? { ...prepared, isEncrypted: true } : prepared);
  }
  return disks;
}

async function prepareDisk(disk: SnapshotDisk, run: DiskRun): Promise<NewDisk> {
  const { base, deps, scope } = run;
  const { name } = disk;
  const { signal, vault } = deps;
  const baseDisk = base?.disks.find((candidate) => candidate.name === name);
  if (base === undefined || baseDisk === undefined) {
    const reader = scope.owned.use(await disk.open(signal));
    if (base === undefined) return { name, reader, tracking: "full" };
    const trackingReason = `recovery point ${base.pointId} has no disk "${name}"`;
    return { name, reader, tracking: "full", trackingReason };
  }
  const { reader, answer, frozen } = await openDisk(disk, base.snapshotId, run);
  const facts = { name, reader, baseDisk };
  if (!answer.known) {
    const { reason } = answer;
    return { name, reader, ...(await compareDisk({ ...facts, reason }, deps, scope)) };
  }
  const baseReader = valueOf(frozen) ?? scope.owned.use(vault.openDisk(baseDisk));
  const method: DiskMethod = {
    increment: { base: toBase(baseDisk, baseReader), changes: answer.extents },
    tracking: answer.method,
  };
  const trusted = { ...facts, changes: answer.extents, method };
  return { name, reader, ...(await trustChanges(trusted, deps, scope)) };
}

/** A disk, what changed on it, and how it was, where its snapshot is still there: counts where the change is known. */
interface OpenedDisk {
  readonly reader: DiskReader;
  readonly answer: ChangesAnswer;
  readonly frozen: PromiseSettledResult<DiskReader | undefined>;
}

/** All at the same time: each takes processes of its own, which for a small increment take longest. */
async function openDisk(
  disk: SnapshotDisk,
  baseId: string | undefined,
  { deps: { signal }, scope }: DiskRun,
): Promise<OpenedDisk> {
  const unknown = { known: false, reason: "the last recovery point was made without a snapshot" };
  const [opened, changed, frozen] = await Promise.allSettled([
    disk.open(signal),
    baseId === undefined ? (unknown as ChangesAnswer) : disk.changesSince(baseId, signal),
    baseId === undefined ? undefined : disk.openBase(baseId, signal),
  ]);
  for (const each of [opened, frozen]) {
    if (each.status === "fulfilled" && each.value !== undefined) scope.owned.use(each.value);
  }
  return { reader: valueOf(opened), answer: valueOf(changed), frozen };
}
