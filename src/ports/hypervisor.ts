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
 * `file-system`: every file system was frozen when the snapshot was taken. `crash`: what a power
 * cut would have left. (Application consistency comes with the backup extension.)
 */
export type Consistency = "file-system" | "crash";

/** Why a snapshot is only crash-consistent; absent where it is not. For people. */
export interface ConsistencyRecord {
  readonly consistency: Consistency;
  readonly reason?: string;
  /** From the start of the freeze to the end of the thaw; absent when nothing was frozen. */
  readonly frozenMs?: number;
  /** How many file systems were frozen. */
  readonly fileSystemsFrozen?: number;
}

/** What is asked of a snapshot. */
export interface SnapshotRequest {
  /** `freeze`: freeze, else fall to crash consistency and say why. `crash`: never freeze. */
  readonly quiesce: "freeze" | "crash";
  /** Longest time from freeze to thaw, in ms, 1,000 to 10,000. */
  readonly freezeBudgetMs: number;
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
   * the guest is thawed; on any error the guest is thawed and the VM goes on as it was.
   */
  takeSnapshot(vmId: string, request: SnapshotRequest, signal?: AbortSignal): Promise<VmSnapshot>;
  /** Snapshots that are still there, oldest first. */
  listSnapshots(vmId: string, signal?: AbortSignal): Promise<readonly VmSnapshot[]>;
  /** Merges every snapshot older than `keepId` away. One that is being read is SnapshotInUse and stays. */
  releaseSnapshotsBefore(vmId: string, keepId: string, signal?: AbortSignal): Promise<void>;
  /** Flattens every disk to one file at its original path and forgets all snapshots, VM running or not. */
  detach(vmId: string, signal?: AbortSignal): Promise<void>;
}
