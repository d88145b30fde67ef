/** What every operation on the layers of a VM is given, whatever hypervisor runs it. */
import type { Clock } from "#base/clock.ts";
import type { Monitor } from "#drivers/fleecing/monitor.ts";
import type { DiskLayer } from "./disk-layer.ts";
import type { VmDirectory } from "./vm-directory.ts";
import type { LayerMerge } from "./layer-changes.ts";
import type { DiskRecord, VmRecord } from "./vm-record.ts";

/**
 * The moments of an operation after each of which something durable has changed. Named for progress
 * and for tests that end the process there.
 */
export const vmSteps = [
  "created",
  "attached",
  "switched",
  "quiesced",
  "frozen",
  "taken",
  "thawed",
  "recorded",
  "merge-marked",
  "merge-committed",
  "merge-recorded",
  "detach-marked",
  "detach-pending",
  "detach-recorded",
  "detach-finished",
  "fleece-recorded",
  "fleece-attached",
  "fleece-taken",
  "fleece-exported",
  "fleece-closed",
] as const;

/** See {@link vmSteps}. */
export type VmStep = (typeof vmSteps)[number];

/** A disk as the VM's configuration has it below all layers of Kluis. */
export interface OriginalDisk {
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  readonly format: DiskLayer["format"];
  /** Where the configuration names it as a volume of a pool. */
  readonly volume?: { readonly pool: string; readonly volume: string };
  /** Of a block device: what the paths of its layers begin with. */
  readonly layerStem?: string;
  /** Where it is encrypted by LUKS: names the passphrase for {@link LayeredVm.readSecret}. */
  readonly secretId?: string;
  /** Whether another program has given the disk this image in place of its layers. Default: no. */
  readonly isMoved?: boolean;
}

/** See above. */
export interface LayeredVm {
  readonly description: {
    readonly name: string;
    readonly disks: readonly OriginalDisk[];
    /** Disks that cannot have layers, and why. */
    readonly refused?: readonly { readonly name: string; readonly reason: string }[];
    /** The first disk where it is absent. */
    readonly osDisk?: string;
  };
  readonly directory: VmDirectory;
  readonly clock: Clock;
  /** Told after each step, before the next begins. */
  readonly onStep: (step: VmStep) => Promise<void>;
  /**
   * Makes the VM start on the active layers of the record whoever starts it, durably; nothing where
   * only Kluis starts it, from the record.
   */
  readonly nameLayers: (record: VmRecord) => Promise<void>;
  /** The passphrase of that name. Errors: DiskKeyUnusable. Absent where no disk can be encrypted. */
  readonly readSecret?: (secretId: string) => Promise<Uint8Array>;
  /** Errors: SnapshotFailed where a first layer on one of these disks could not be merged later. */
  readonly assertMergePossible?: (diskNames: readonly string[]) => Promise<void>;
  /** The images that the next start uses, by disk; empty where the record alone says that. */
  readonly readNames: () => Promise<ReadonlyMap<string, string>>;
  /** Every image that the configuration of any VM names; empty where only the record does. */
  readonly readConfigured: () => Promise<ReadonlySet<string>>;
}

/** A machine that runs, before anybody speaks to it. */
export interface RunningMachine {
  /** Where its guest's agent is reached; see GuestAgent. */
  readonly agentSocket: string;
  /** Opens a session, after which no command of an earlier one can follow. Errors: QmpFailed. */
  open(signal?: AbortSignal): Promise<MachineSession>;
  /** Opens QEMU's monitor; as {@link open}, and one of both at a time. Errors: QmpFailed. */
  openMonitor(signal?: AbortSignal): Promise<Monitor>;
}

/** The layers of a disk that a machine uses, as numbers, oldest first; the last is written. */
export interface UsedChain {
  readonly numbers: readonly number[];
  /** Size of the disk as the guest sees it. */
  readonly sizeBytes: number;
}

/** One disk of an instant: layer `to` goes on top of layer `from`. */
export interface LayerSwitch {
  readonly diskName: string;
  readonly from: number;
  readonly to: DiskLayer;
}

/** What ends a commit early. */
export interface CommitWait {
  readonly signal: AbortSignal | undefined;
  /** Asked while it runs; true stops it. */
  readonly isUnwanted: () => Promise<boolean>;
}

/** One disk to be flattened. `record` names its layers, `flat` the original alone. */
export interface Flattening {
  readonly record: VmRecord;
  readonly flat: VmRecord;
  readonly disk: DiskRecord;
  readonly signal: AbortSignal | undefined;
}

/** A session with a running machine. Errors are those of the hypervisor: QmpFailed. */
export interface MachineSession extends AsyncDisposable {
  /** Ends what dead runs left under way, on the side that the record names where there are two. */
  settle(record: VmRecord): Promise<void>;
  /**
   * What the machine uses for each disk, by name. Errors: QmpFailed where a disk is not there or
   * stands on something that the record does not know.
   */
  queryChains(disks: readonly DiskRecord[]): Promise<ReadonlyMap<string, UsedChain>>;
  /** Errors: Busy (backoff) where another program has a job on the VM or on one of these disks. */
  assertFree(diskNames: readonly string[]): Promise<void>;
  /** Closes those layers that the machine holds open and no disk uses. */
  closeUnused(disks: readonly DiskRecord[], chains: ReadonlyMap<string, UsedChain>): Promise<void>;
  /** Opens a layer that is to be switched to. */
  openLayer(diskName: string, layer: DiskLayer): Promise<void>;
  /**
   * Switches all disks at one instant, and makes what was written before it durable. Errors:
   * SnapshotFailed where the machine refused, so that nothing has happened; any other error leaves
   * it open whether it has.
   */
  takeInstant(switches: readonly LayerSwitch[]): Promise<void>;
  /** Commits a range of layers below the active one; stopped or done, no job is left on return. */
  commit(disk: DiskRecord, merge: LayerMerge, wait: CommitWait): Promise<void>;
  /**
   * Flattens a disk into its original; returns the record as last written. No write of the guest is
   * acknowledged on a side that the record does not name.
   */
  flatten(flattening: Flattening): Promise<VmRecord>;
}
