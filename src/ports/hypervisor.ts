/**
 * What Kluis needs of a hypervisor: to know its VMs, to freeze an instant of all disks of one, to
 * read that instant and what changed since an earlier one, and to leave the VM as it was found.
 *
 * Every driver passes `src/testing/suites/hypervisor-suite.ts` and `fleecing-suite.ts` on real VMs.
 */
import type { ChangedExtents, DiskReader } from "#ports/disk.ts";

/** Whether a VM has a running machine. `paused` counts as running: its disks are open. */
export type VmState = "running" | "stopped";

/** One disk of a VM as configured. */
export interface VmDisk {
  /** Stable name within the VM, for example `vda`. */
  readonly name: string;
  readonly sizeBytes: number;
  readonly format: "raw" | "qcow2";
  /** The path that the VM's configuration names; absolute. */
  readonly path: string;
  /** Where the configuration names it as a volume instead: the pool. */
  readonly pool?: string;
}

/** A VM as its hypervisor knows it. */
export interface Vm {
  /** Stable id, unique on the host: `[A-Za-z0-9._-]{1,64}`. */
  readonly id: string;
  readonly name: string;
  readonly state: VmState;
  readonly disks: readonly VmDisk[];
}

/**
 * `application`: the guest's applications were at rest (their scripts or writers said so).
 * `file-system`: every file system was frozen when the snapshot was taken. `crash`: what a power
 * cut would have left.
 */
export type Consistency = "application" | "file-system" | "crash";

/** What a snapshot is worth, and what that rests on. Form and rules: docs/design/extension.md. */
export interface ConsistencyRecord {
  readonly consistency: Consistency;
  /** Why it is not what was asked for; for people. */
  readonly reason?: string;
  /**
   * From the start of the freeze, in Windows from the moment VSS said that it holds writes, to the end
   * of the thaw; absent when nothing was frozen.
   */
  readonly frozenMs?: number;
  /** How many file systems were frozen. */
  readonly fileSystemsFrozen?: number;
  readonly evidence?: ConsistencyEvidence;
}

/** What a consistency rests on, beyond how long how much was frozen. */
export interface ConsistencyEvidence {
  /** What was asked for. */
  readonly requested: Consistency;
  /** Mount points that were frozen; absent where the guest did not name them. */
  readonly mountsFrozen?: readonly string[];
  /** Mount points that were left out as asked. */
  readonly mountsSkipped?: readonly string[];
  /** False where no watchdog ran in the guest during the freeze, as the request allowed. */
  readonly isGuestWatched?: boolean;
  readonly scripts?: ScriptsEvidence;
  readonly vss?: VssEvidence;
}

/** What VSS did in a Windows guest. */
export interface VssEvidence {
  /** As the guest's agent was set: `other` is incremental, differential or log; `unknown`: nobody could look. */
  readonly backupType: "full" | "copy" | "other" | "unknown";
  /** Who asked for a copy; absent where nobody did. */
  readonly copyAskedBy?: "policy" | "guest";
  /** How many writers answered after the thaw; absent where nobody could tell. */
  readonly writers?: number;
  /** Absent where none failed. */
  readonly writersFailed?: readonly VssWriterFailure[];
}

/** A VSS writer that did not succeed. */
export interface VssWriterFailure {
  /** GUID of the kind of writer, in lower case. */
  readonly id: string;
  readonly name: string;
  /** VSS_WRITER_STATE. */
  readonly state: number;
  /** In the guest's language. */
  readonly lastError: string;
}

/** What became of the guest's pre and post scripts. */
export interface ScriptsEvidence {
  /** Of the script framework: 0 application-consistent, 3xx what went wrong. */
  readonly resultCode: number;
  /** User-facing names of what went wrong, `Pre-ScriptTimeout`; the first is that of `resultCode`. */
  readonly errors: readonly string[];
  /** As the configuration names the application. */
  readonly appName?: string;
  readonly pre?: ScriptRun;
  readonly post?: ScriptRun;
  /** From the start of the pre script to the end of the post script, by the guest's clock. */
  readonly quiescedMs?: number;
}

/** What became of one script, all its retries together. */
export interface ScriptRun {
  readonly outcome: "succeeded" | "failed" | "timed-out" | "unknown";
  /** Of the last try; absent where it did not end. */
  readonly exitCode?: number;
  readonly tries: number;
  readonly durationMs: number;
}

/**
 * What makes a snapshot a recovery point: kept durably with it from its first moment, so that the
 * point exists as soon as the snapshot does, whoever dies then. The driver only keeps it.
 */
export interface SnapshotLabel {
  /** Id that the point has here and, later, in the vault. */
  readonly pointId: string;
  readonly itemId: string;
  readonly itemName: string;
  /** Text of `VmConfigurations.read`; at most 1 MiB. */
  readonly vmConfiguration: string;
  /** How long the snapshot is kept, 1 to 30. */
  readonly days: number;
  /** What it took to prepare the snapshot. */
  readonly preparationMs?: number;
}

/** Disks that are wanted, by name; the OS disk, the first unless the VM says otherwise, always is. */
export interface DiskSelection {
  /** These; default: all. */
  readonly include?: readonly string[];
  /** Not these, though they are in `include`. */
  readonly exclude?: readonly string[];
}

/** What is asked of a snapshot. */
export interface SnapshotRequest {
  /** Without one the snapshot is an instant that can be read, and no recovery point. */
  readonly label?: SnapshotLabel;
  /**
   * The most that is wanted: `application` runs the guest's scripts where it has any and freezes,
   * `file-system` freezes, `crash` does neither. What cannot be had is told in the record.
   */
  readonly consistency: Consistency;
  /** Longest time from freeze to thaw, in ms, 1,000 to 10,000. */
  readonly freezeBudgetMs: number;
  /**
   * Disks to take; default: all. One that is left out gets no layer and is in no recovery point.
   * ArgumentInvalid (after-change) where a name is of no disk, or the OS disk is excluded.
   */
  readonly disks?: DiskSelection;
  /** Mount points that are not frozen. */
  readonly mountsToSkip?: readonly string[];
  /** Whether a guest in which no watchdog can run is frozen all the same. Default: no. */
  readonly mayFreezeUnwatched?: boolean;
  /**
   * Whether VSS of a Windows guest makes a copy backup, which leaves the logs of applications alone.
   * Default: as the guest's registry says, else a full one.
   */
  readonly isVssCopy?: boolean;
}

/** What can be done with the backup extension of a running guest. */
export type ExtensionAction = "status" | "install" | "remove";

/** The backup extension in a guest. */
export interface ExtensionState {
  readonly isInstalled: boolean;
  /** Whether it is the one that this Kluis brings; the next backup replaces another. */
  readonly isCurrent?: boolean;
  readonly version?: string;
  /** What the last backup came to: a consistency, `refused` or `interrupted`. */
  readonly lastStatus?: string;
  readonly lastError?: string;
  /** When, by the guest's clock, ISO 8601. */
  readonly lastAt?: string;
  /** What it has changed in the guest, for people. */
  readonly changes: readonly string[];
}

/** One disk of a snapshot. */
export interface SnapshotDisk {
  readonly name: string;
  readonly sizeBytes: number;
  /** Whether it is encrypted on its host; what is read of it is not. Default: no. */
  readonly isEncrypted?: boolean;
  /** Opens the frozen content. The reader holds the snapshot: it cannot be released before it is closed. */
  open(signal?: AbortSignal): Promise<DiskReader>;
  /**
   * What changed on this disk since the snapshot `baseId`. Where that is not known (base gone,
   * disk new or replaced) the answer says why and the caller compares checksums.
   */
  changesSince(baseId: string, signal?: AbortSignal): Promise<ChangesAnswer>;
  /** Opens the content at the base snapshot, where it is still there; `undefined` where not. */
  openBase(baseId: string, signal?: AbortSignal): Promise<DiskReader | undefined>;
}

/** What changed since a base, or why that is not known. */
export type ChangesAnswer =
  | {
      readonly known: true;
      readonly method: "snapshot-difference" | "dirty-bitmap";
      readonly extents: ChangedExtents;
    }
  | { readonly known: false; readonly reason: string };

/** One instant of all disks of a VM. Durable: it survives a restart of Kluis and of the VM. */
export interface VmSnapshot {
  /** `[a-z0-9-]{1,64}`, unique within the VM. */
  readonly id: string;
  readonly takenAtMs: number;
  readonly consistency: ConsistencyRecord;
  readonly disks: readonly SnapshotDisk[];
  readonly label?: SnapshotLabel;
  /** How long taking it took, in whole ms; writing its record not included. */
  readonly tookMs?: number;
  /** Ids of the vaults whose newest recovery point was sent from this snapshot; see {@link Hypervisor.markBase}. */
  readonly baseOf: readonly string[];
}

/** What is asked of an instant that is not kept. */
export interface FleeceRequest extends SnapshotRequest {
  /** Free space that is the guest's: what is copied aside never takes it, whoever watches. */
  readonly reserveBytes: number;
  /**
   * The instant of the newest point of the vault that this one is sent to: it may have been committed
   * by a process that died before {@link FleecedSnapshot.markBase}. Default: as was marked last.
   */
  readonly base?: { readonly vaultId: string; readonly snapshotId: string };
}

/**
 * An instant of a running VM that lives while this process reads it; disposing ends it, and a VM that
 * stops does. It is in no list and has no base to open. Where the guest would have to wait or to fail
 * for it, it is given up and its readers fail. See docs/design/fleecing.md.
 */
export interface FleecedSnapshot extends VmSnapshot, AsyncDisposable {
  /** What taking it leaves behind with the VM; for people. */
  readonly notes: readonly string[];
  /**
   * As {@link Hypervisor.markBase}: from now on the changes since this instant are known, those since
   * older ones only where another vault is based on them.
   */
  markBase(vaultId: string, signal?: AbortSignal): Promise<void>;
}

/** The layers of one disk, and the room beside them. */
export interface DiskSpace {
  readonly name: string;
  /** Where its layers grow; absolute. */
  readonly folder: string;
  /** Names the file system of the folder: disks that share one share the free space. */
  readonly fileSystem: string;
  readonly freeBytes: number;
  /** What all its layers take. */
  readonly allocatedBytes: number;
  /** How many files the disk consists of, the original image included. */
  readonly layers: number;
  /** The most that one layer took; absent before the first snapshot. */
  readonly largestLayerBytes?: number;
}

/** The most files that a disk may consist of; see {@link DiskSpace.layers}. */
export const layersMax = 32;

/** The hypervisor port. Errors: VmNotFound, VmStateWrong, QmpFailed, Agent*, Snapshot* (see the registry). */
export interface Hypervisor extends AsyncDisposable {
  list(signal?: AbortSignal): Promise<readonly Vm[]>;
  get(vmId: string, signal?: AbortSignal): Promise<Vm>;
  start(vmId: string, signal?: AbortSignal): Promise<void>;
  /**
   * Freezes one instant of all disks, running or stopped. On return the snapshot is durable and
   * the guest is thawed; on any error the guest is thawed and the VM goes on as it was. Error, beside
   * the others: GuestScriptFailed (after-change) where the guest's scripts forbid to go on.
   */
  takeSnapshot(vmId: string, request: SnapshotRequest, signal?: AbortSignal): Promise<VmSnapshot>;
  /**
   * Freezes one instant of all disks of a running VM without layers, kept aside until it is disposed;
   * until then other operations on the VM's snapshots, and other transfers, are Busy. Errors, beside
   * those of `takeSnapshot`: VmStateWrong where the VM does not run or has layers, SnapshotNoSpace.
   */
  takeFleecedSnapshot(
    vmId: string,
    request: FleeceRequest,
    signal?: AbortSignal,
  ): Promise<FleecedSnapshot>;
  /** Snapshots that are still there, oldest first; a condemned one is absent. */
  listSnapshots(vmId: string, signal?: AbortSignal): Promise<readonly VmSnapshot[]>;
  /**
   * Condemns the snapshots `ids` durably, then merges layers that no snapshot needs: those of these,
   * and those that an earlier release did not get to. Ids that are not there are no error.
   *
   * Errors (backoff), after what can be done is done: SnapshotInUse where somebody reads one of them,
   * which stays, or a layer that would be written; Busy where a snapshot was due, which stops a merge.
   */
  releaseSnapshots(vmId: string, ids: ReadonlySet<string>, signal?: AbortSignal): Promise<void>;
  /**
   * Notes durably that the newest recovery point in a vault was sent from this snapshot; the one
   * noted before for that vault is no base any more. It is no error if the snapshot is gone.
   */
  markBase(
    vmId: string,
    base: { readonly vaultId: string; readonly snapshotId: string },
    signal?: AbortSignal,
  ): Promise<void>;
  /**
   * Says that this process transfers a snapshot of the VM until it disposes the answer or ends. Busy
   * (backoff) where another living process, or this one, does so already.
   */
  beginTransfer(vmId: string, signal?: AbortSignal): Promise<AsyncDisposable>;
  /**
   * Layers and free space of the disks that a snapshot of that selection takes, by default of every
   * disk; SnapshotBaseChanged, ImageNotFound, and those of {@link SnapshotRequest.disks}.
   */
  readSpace(
    vmId: string,
    disks?: DiskSelection,
    signal?: AbortSignal,
  ): Promise<readonly DiskSpace[]>;
  /**
   * Shows, puts in, or takes out the backup extension of a running guest; a snapshot puts it there by
   * itself. Errors: VmStateWrong where the VM does not run, Agent*, Busy.
   */
  manageExtension(
    vmId: string,
    action: ExtensionAction,
    signal?: AbortSignal,
  ): Promise<ExtensionState>;
  /** Flattens every disk to one file at its original path and forgets all snapshots, VM running or not. */
  detach(vmId: string, signal?: AbortSignal): Promise<void>;
}
