/** What backups of images and of VMs share: progress, figures, inputs of the vault's writer. */
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { Clock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import type { ChangedExtents, DiskReader } from "#ports/disk.ts";
import type { CommittedPoint, NewDisk, RecoveryPointDisk } from "#vault/recovery-point.ts";
import { isVaultLoss } from "#vault/vault-loss.ts";
import type { Vault } from "#vault/vault.ts";

/** What a run is doing with a disk: finding out what changed, or sending it. */
export type BackupPhase = "compare" | "transfer";

/** How far one disk is in one phase. */
export interface BackupProgress {
  readonly disk: string;
  readonly phase: BackupPhase;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** What every backup needs. */
export interface BackupDeps {
  readonly vault: Vault;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: BackupProgress) => void;
}

/** A committed backup with its time. */
export interface BackupOutcome extends CommittedPoint {
  /** From the call to the commit. */
  readonly durationMs: number;
  /** What went wrong after the commit and is not lost; for people. */
  readonly warnings: readonly string[];
}

/** The part of a disk's input that says what it is built on. */
export type DiskMethod = Pick<
  NewDisk,
  "increment" | "tracking" | "trackingReason" | "examinedBytes"
>;

/** What one run holds open until it is written, and what it has to tell; for people. */
export class RunScope implements AsyncDisposable {
  readonly owned = new AsyncDisposableStack();
  readonly alerts: string[] = [];

  async [Symbol.asyncDispose](): Promise<void> {
    await this.owned.disposeAsync();
  }
}

/** A disk that is compared with an earlier point by checksum. */
export interface Comparison {
  readonly name: string;
  readonly reader: DiskReader;
  readonly baseDisk: RecoveryPointDisk;
  readonly reason: string;
}

/** A disk whose changes are said to be known, and what is done where that holds. */
export interface TrustedChanges extends Omit<Comparison, "reason"> {
  readonly changes: ChangedExtents;
  readonly method: DiskMethod;
  /** {@link sampleDisk}, where it was begun ahead. */
  readonly sample?: Promise<Sample | undefined>;
}

type Sample = Awaited<ReturnType<Vault["sampleUnchanged"]>>;

/** Compares a sample of what is said to be unchanged; `undefined` where the vault has lost the base's map. */
export async function sampleDisk(
  disk: Pick<TrustedChanges, "reader" | "baseDisk" | "changes">,
  deps: BackupDeps,
): Promise<Sample | undefined> {
  const { reader, baseDisk, changes } = disk;
  try {
    return await deps.vault.sampleUnchanged({ reader, base: baseDisk, changes }, deps.signal);
  } catch (error) {
    deps.signal?.throwIfAborted();
    // What the vault has lost is found and healed when the point is written.
    if (isVaultLoss(error)) return undefined;
    throw error;
  }
}

/**
 * Believes a record of changes only after a random sample: where something differs that it does not
 * name, the whole disk is compared by checksum, and the run tells it as an alert.
 */
export async function trustChanges(
  disk: TrustedChanges,
  deps: BackupDeps,
  scope: RunScope,
): Promise<DiskMethod> {
  const { name, method } = disk;
  const sample = await (disk.sample ?? sampleDisk(disk, deps));
  if (sample === undefined) return method;
  const { examinedBytes, differsAtBytes } = sample;
  if (differsAtBytes === undefined) return { ...method, examinedBytes };
  const reason = `the record of changes is wrong: byte ${differsAtBytes} changed and it does not say so`;
  scope.alerts.push(
    `Disk "${name}": ${reason}. The disk was compared as a whole; its tracking, or the disk below it, is not to be trusted`,
  );
  return await compareDisk({ ...disk, reason }, deps, scope);
}

/** Compares by checksum; the reader of the base is the vault's and is put on the scope. */
export async function compareDisk(
  disk: Comparison,
  deps: BackupDeps,
  scope: RunScope,
): Promise<DiskMethod> {
  const { name, reader, baseDisk, reason } = disk;
  let found: Awaited<ReturnType<Vault["findChanges"]>>;
  try {
    found = await deps.vault.findChanges(reader, baseDisk, {
      name,
      ...(deps.signal === undefined ? {} : { signal: deps.signal }),
      onProgress: ({ doneBytes, totalBytes }) =>
        deps.onProgress?.({ disk: name, phase: "compare", doneBytes, totalBytes }),
    });
  } catch (error) {
    deps.signal?.throwIfAborted();
    if (!isVaultLoss(error)) throw error;
    const trackingReason = `the last recovery point is damaged: ${error.message}`;
    return { tracking: "full", trackingReason };
  }
  const base = toBase(baseDisk, scope.owned.use(deps.vault.openDisk(baseDisk)));
  return {
    increment: { base, changes: found.changes },
    tracking: "checksum",
    trackingReason: reason,
    examinedBytes: found.examinedBytes,
  };
}

/** A disk of the base point as the writer takes it. */
export function toBase(
  baseDisk: RecoveryPointDisk,
  reader: DiskReader,
): NonNullable<NewDisk["increment"]>["base"] {
  return { disk: baseDisk, reader };
}

/** Options of the vault's writer for this run. */
export function writeOptions(deps: BackupDeps) {
  return {
    ...(deps.signal === undefined ? {} : { signal: deps.signal }),
    onProgress: (progress: Omit<BackupProgress, "phase">) =>
      deps.onProgress?.({ ...progress, phase: "transfer" }),
  };
}

/** Says of an error that happened after a commit what it means; rethrows what is no operating error. */
export function toWarning(error: unknown, done: string): string {
  if (!isKluisError(error)) throw error;
  return `${error.message} (${done})`;
}

/** Throws Cancelled where the signal has fired. */
export function assertGoingOn(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  if (isKluisError(signal.reason)) throw signal.reason;
  throw new KluisError("Cancelled", "Cannot go on: the work was cancelled");
}
