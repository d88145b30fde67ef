/**
 * What Kluis needs of a hypervisor: to know its VMs, to freeze an instant of all disks of one, to
 * read that instant and what changed since an earlier one, and to leave the VM as it was found.
 *
 * Every driver passes `src/testing/suites/hypervisor-suite.ts` on real VMs.
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
  /** From the start of the freeze to the end of the thaw; absent when nothing was frozen. */
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

/** What is asked of a snapshot. */
export interface SnapshotRequest {
  /**
   * The most that is wanted: `application` runs the guest's scripts where it has any and freezes,
   * `file-system` freezes, `crash` does neither. What cannot be had is told in the record.
   */
  readonly consistency: Consistency;
  /** Longest time from freeze to thaw, in ms, 1,000 to 10,000. */
  readonly freezeBudgetMs: number;
  /** Mount points that are not frozen. */
  readonly mountsToSkip?: readonly string[];
  /** Whether a guest in which no watchdog can run is frozen all the same. Default: no. */
  readonly mayFreezeUnwatched?: boolean;
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
  | { readonly known: true; readonly method: string; readonly extents: ChangedExtents }
  | { readonly known: false; readonly reason: string };

/** One instant of all disks of a VM. Durable: it survives a restart of Kluis and of the VM. */
export interface VmSnapshot {
  /** `[a-z0-9-]{1,64}`, unique within the VM. */
  readonly id: string;
  readonly takenAtMs: number;
  readonly consistency: ConsistencyRecord;
  readonly disks: readonly SnapshotDisk[];
}

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
  /** Snapshots that are still there, oldest first. */
  listSnapshots(vmId: string, signal?: AbortSignal): Promise<readonly VmSnapshot[]>;
  /** Merges every snapshot older than `keepId` away. One that is being read is SnapshotInUse and stays. */
  releaseSnapshotsBefore(vmId: string, keepId: string, signal?: AbortSignal): Promise<void>;
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
