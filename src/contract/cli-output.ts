/**
 * What commands print with `--output json`: one document on the standard output, or one of kind
 * `error` on the error stream. Members are only added within one format number; a member that
 * changes its meaning or goes away takes a new number. Described in docs/reference/output.md.
 */

/** The number of this format. */
export const outputFormat = 1;

/** Members that every document has. */
export interface OutputHead<Kind extends string> {
  readonly format: typeof outputFormat;
  readonly kind: Kind;
}

/** An error; the exit code of the process says the same. */
export interface ErrorOutput extends OutputHead<"error"> {
  readonly code: string;
  readonly message: string;
  readonly action: string;
  readonly retry: string;
  readonly exit: number;
  readonly details: Readonly<Record<string, string | number | boolean>>;
}

/** `vault create`. */
export interface VaultCreatedOutput extends OutputHead<"vault-created"> {
  readonly store: string;
  readonly vaultId: string;
  readonly keys: readonly string[];
  readonly recoveryKey?: string;
  readonly recoveryKeyFile?: string;
}

/** `vault key remove`. */
export interface KeyRemovedOutput extends OutputHead<"key-removed"> {
  readonly names: readonly string[];
  readonly record: number;
  readonly epoch: number;
}

/** A slot that was wrapped anew. */
export interface RewrappedKeyOutput {
  readonly oldName: string;
  readonly newName: string;
  readonly type: string;
  readonly key: string;
}

/** `vault key rotate`. */
export interface KeysRotatedOutput extends OutputHead<"keys-rotated"> {
  readonly record: number;
  readonly epoch: number;
  readonly rewrapped: readonly RewrappedKeyOutput[];
}

/** What was proven of one key epoch. */
export interface ProvenEpochOutput {
  readonly epoch: number;
  readonly object?: string;
}

/** `vault key proof`, `rescue check`. */
export interface KeyProofOutput extends OutputHead<"key-proof"> {
  readonly vaultId: string;
  readonly slot: string;
  readonly type: string;
  readonly record: number;
  readonly epochs: readonly ProvenEpochOutput[];
  readonly failed: readonly string[];
  readonly objectsRead: number;
  readonly survivesHost: boolean;
}

/** A version of a key in a folder of this host. */
export interface HostKeyVersionOutput {
  readonly version: string;
  readonly isEnabled: boolean;
}

/** A key in a folder of this host. */
export interface HostKeyOutput {
  readonly key: string;
  readonly isDeleted: boolean;
  readonly versions: readonly HostKeyVersionOutput[];
}

/** `key list`. */
export interface HostKeysOutput extends OutputHead<"host-keys"> {
  readonly keys: readonly HostKeyOutput[];
}

/** `key create`, `key rotate`, `key disable`, `key enable`, `key delete`, `key recover`. */
export interface HostKeyChangedOutput extends OutputHead<"host-key-changed"> {
  readonly key: string;
  readonly change: string;
}

/** `vault key add`. */
export interface KeyAddedOutput extends OutputHead<"key-added"> {
  readonly name: string;
  readonly type: string;
  readonly recoveryKey?: string;
  readonly recoveryKeyFile?: string;
}

/** `vault key list`. */
export interface KeysOutput extends OutputHead<"keys"> {
  readonly vaultId: string;
  readonly keys: readonly KeyOutput[];
  readonly damaged: readonly string[];
  readonly newer: readonly string[];
  readonly record: number;
  readonly epoch: number;
  readonly missing: readonly string[];
}

/** One key slot. */
export interface KeyOutput {
  readonly name: string;
  readonly type: string;
  readonly isValid: boolean;
  readonly survivesHost: boolean;
  readonly key?: string;
  readonly follows?: boolean;
}

/** One disk of a recovery point. */
export interface PointDiskOutput {
  readonly name: string;
  readonly sizeBytes: number;
  readonly mappedBytes: number;
  readonly examinedBytes: number;
  readonly changedBytes: number;
  readonly newBytes: number;
  readonly storedBytes: number;
  readonly tracking: string;
  readonly trackingReason?: string;
  readonly healedBytes?: number;
  readonly namedBytes?: number;
  readonly namedRanges?: number;
}

/** Where the time of a backup went. */
export interface TimingOutput {
  readonly preparationMs: number;
  readonly snapshotMs: number;
  readonly changesMs: number;
  readonly transferMs: number;
}

/** Why a backup took longer than usual. */
export interface SlowCauseOutput {
  readonly disk: string;
  readonly cause: string;
  readonly text: string;
}

/** One recovery point. */
export interface PointOutput {
  readonly id: string;
  readonly itemId: string;
  readonly itemName: string;
  readonly takenAt: string;
  readonly committedAt: string;
  readonly consistency: string;
  readonly consistencyReason?: string;
  readonly consistencyEvidence?: string;
  readonly frozenMs?: number;
  readonly basePointId?: string;
  readonly timing?: TimingOutput;
  readonly slowCauses: readonly SlowCauseOutput[];
  readonly disks: readonly PointDiskOutput[];
}

/** Name and size of a disk of a recovery point. */
export interface TieredDiskOutput {
  readonly name: string;
  readonly sizeBytes: number;
}

/** One recovery point of a VM, in a snapshot, in a vault or in both. */
export interface TieredPointOutput {
  readonly id: string;
  readonly itemId: string;
  readonly itemName: string;
  readonly takenAt: string;
  readonly consistency: string;
  readonly consistencyReason?: string;
  readonly frozenMs?: number;
  readonly tiers: readonly string[];
  readonly snapshotExpiresAt?: string;
  readonly committedAt?: string;
  readonly disks: readonly TieredDiskOutput[];
}

/** `vm points`. */
export interface VmPointsOutput extends OutputHead<"vm-points"> {
  readonly isVaultAsked: boolean;
  readonly points: readonly TieredPointOutput[];
  readonly unreadable: readonly UnreadablePointOutput[];
}

/** What became of one task of a job. */
export interface TaskOutput {
  readonly status: string;
  readonly reason?: string;
  readonly code?: string;
}

/** The backup job of a VM. */
export interface JobOutput {
  readonly status: string;
  readonly snapshot: TaskOutput;
  readonly transfer: TaskOutput;
  readonly expired: readonly string[];
  readonly expiredEarly: readonly string[];
}

/** `vm backup` that sent nothing. */
export interface SnapshotOutput extends OutputHead<"snapshot"> {
  readonly point: TieredPointOutput;
  readonly job: JobOutput;
  readonly durationMs: number;
  readonly warnings: readonly string[];
}

/** `vm transfer` that had nothing to do. */
export interface TransferOutput extends OutputHead<"transfer"> {
  readonly transfer: TaskOutput;
}

/** `vm expire`. */
export interface ExpiryOutput extends OutputHead<"expiry"> {
  readonly expired: readonly string[];
  readonly expiredEarly: readonly string[];
  readonly warnings: readonly string[];
}

/** `image backup`, `vm backup`, `vm transfer`. */
export interface BackupOutput extends OutputHead<"backup"> {
  readonly point: PointOutput;
  readonly addedObjects: number;
  readonly addedBytes: number;
  readonly durationMs: number;
  readonly warnings: readonly string[];
  readonly job?: JobOutput;
}

/** A recovery point whose manifest cannot be read. */
export interface UnreadablePointOutput {
  readonly id: string;
  readonly item: string;
  readonly code: string;
  readonly message: string;
}

/** `image list`, `rescue list`. */
export interface PointsOutput extends OutputHead<"points"> {
  readonly points: readonly PointOutput[];
  readonly unreadable: readonly UnreadablePointOutput[];
}

/** One restored disk. */
export interface RestoredDiskOutput {
  readonly name: string;
  readonly target: string;
  readonly format: string;
  readonly sizeBytes: number;
  readonly dataBytes: number;
  readonly zeroBytes: number;
  readonly durationMs: number;
}

/** `image restore`, `vm restore`, `rescue restore`. */
export interface RestoreOutput extends OutputHead<"restore"> {
  readonly point: PointOutput | TieredPointOutput;
  readonly tier: string;
  readonly disks: readonly RestoredDiskOutput[];
  readonly durationMs: number;
  readonly configuration?: string;
}

/** What a check found: all is well, something is damaged, or something could not be looked at. */
export type VerdictOutput = "sound" | "damaged" | "unknown";

/** An object of the store that is not as it must be. */
export interface BadObjectOutput {
  readonly name: string;
  readonly verdict: VerdictOutput;
  readonly reason: string;
}

/** A range of a disk that cannot be restored. */
export interface DamagedRangeOutput {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** What was found for one disk of a point. */
export interface VerifiedDiskOutput {
  readonly name: string;
  readonly verdict: VerdictOutput;
  readonly damagedBytes: number;
  readonly ranges: readonly DamagedRangeOutput[];
  readonly rangesOmitted: number;
  readonly reason?: string;
}

/** What was found for one recovery point. */
export interface VerifiedPointOutput {
  readonly id: string;
  readonly itemId: string;
  readonly itemName: string;
  readonly verdict: VerdictOutput;
  readonly disks: readonly VerifiedDiskOutput[];
  readonly reason?: string;
}

/** `image verify`, `rescue verify`. */
export interface VerifyOutput extends OutputHead<"verify"> {
  readonly depth: string;
  readonly verdict: VerdictOutput;
  readonly pointsVerdict: VerdictOutput;
  readonly objectsUnnamed: number;
  readonly objectsChecked: number;
  readonly bytesRead: number;
  readonly blocksChecked: number;
  readonly badObjects: readonly BadObjectOutput[];
  readonly badObjectsOmitted: number;
  readonly points: readonly VerifiedPointOutput[];
  readonly durationMs: number;
}

/** How far a secondary is behind its primary. */
export interface LagOutput {
  readonly points: number;
  readonly objects: number;
  readonly bytes: number;
  readonly seconds: number;
  readonly measuredAt: string;
}

/** `vault lag`. */
export interface VaultLagOutput extends OutputHead<"vault-lag"> {
  readonly primary: string;
  readonly secondary: string;
  readonly lag: LagOutput;
}

/** A recovery point that was not copied. */
export interface HeldBackPointOutput {
  readonly id: string;
  readonly item: string;
  readonly reason: string;
}

/** `vault replicate`, `rescue copy`. */
export interface CopyOutput extends OutputHead<"copy"> {
  readonly from: string;
  readonly to: string;
  readonly objects: number;
  readonly bytes: number;
  readonly points: number;
  readonly heldBack: readonly HeldBackPointOutput[];
  readonly damaged: readonly BadObjectOutput[];
  readonly lag: LagOutput;
  readonly isSecondary: boolean;
  /** With `--prune`, where the secondary got everything. */
  readonly pruning?: SecondaryPruningOutput;
  readonly durationMs: number;
}

/** What was taken out of a secondary. */
export interface SecondaryPruningOutput {
  readonly pointsDeleted: number;
  readonly pointsUnexplained: number;
  readonly freedBytes: number;
}

/** An object that is as it must be again. */
export interface HealedObjectOutput {
  readonly name: string;
  readonly was: string;
}

/** `vault heal`. */
export interface VaultHealedOutput extends OutputHead<"vault-healed"> {
  readonly store: string;
  readonly copy: string;
  readonly objectsChecked: number;
  readonly bytesRead: number;
  readonly healed: readonly HealedObjectOutput[];
  readonly unhealed: readonly BadObjectOutput[];
  readonly durationMs: number;
}

/** `vault promote`. */
export interface VaultPromotedOutput extends OutputHead<"vault-promoted"> {
  readonly store: string;
}

/** `vault accept`. */
export interface VaultAcceptedOutput extends OutputHead<"vault-accepted"> {
  readonly store: string;
  readonly forgotten: readonly string[];
}

/** `vault repair`. */
export interface RepairOutput extends OutputHead<"repair"> {
  readonly isDryRun: boolean;
  readonly packsIndexed: number;
  readonly packsUnusable: number;
  readonly segmentsDropped: number;
  readonly lockedObjects: readonly string[];
  readonly pointsKept: number;
  readonly inventoryAdded: number;
  readonly inventoryRemoved: number;
  readonly findingsLifted: number;
  readonly verify: VerifyOutput;
}

/** `vault scrub`. */
export interface ScrubOutput extends OutputHead<"scrub"> {
  readonly depth: string;
  readonly verdict: VerdictOutput;
  readonly objectsChecked: number;
  readonly blocksChecked: number;
  readonly bytesRead: number;
  readonly objectsListed: number;
  readonly bytesListed: number;
  readonly neverChecked: number;
  readonly neverCheckedBytes: number;
  readonly oldestCheckedAt?: string;
  readonly badObjects: readonly BadObjectOutput[];
  readonly badObjectsOmitted: number;
  readonly damagedBefore: number;
  readonly durationMs: number;
}

/** `vault verify`. */
export interface StoreVerifyOutput extends OutputHead<"store-verify"> {
  readonly depth: string;
  readonly verdict: VerdictOutput;
  readonly objectsListed: number;
  readonly objectsExpected: number;
  readonly objectsUnnamed: number;
  readonly objectsChecked: number;
  readonly bytesRead: number;
  readonly badObjects: readonly BadObjectOutput[];
  readonly badObjectsOmitted: number;
  readonly durationMs: number;
}

/** One disk of a VM. */
export interface VmDiskOutput {
  readonly name: string;
  readonly path: string;
  readonly format: string;
  readonly sizeBytes: number;
  readonly pool?: string;
}

/** One VM. */
export interface VmOutput {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly snapshots: number;
  readonly disks: readonly VmDiskOutput[];
}

/** `vm list`. */
export interface VmsOutput extends OutputHead<"vms"> {
  readonly vms: readonly VmOutput[];
}

/** `vm start`, `vm detach`. */
export interface VmChangedOutput extends OutputHead<"vm-started" | "vm-detached"> {
  readonly vm: VmOutput;
  readonly durationMs: number;
}

/** `vm extension status`, `vm extension install`, `vm extension remove`. */
export interface VmExtensionOutput extends OutputHead<"vm-extension"> {
  readonly vm: string;
  readonly isInstalled: boolean;
  readonly isCurrent?: boolean;
  readonly version?: string;
  readonly lastStatus?: string;
  readonly lastError?: string;
  readonly lastAt?: string;
  readonly changes: readonly string[];
}

/** `vault collect`. */
export interface CollectionOutput extends OutputHead<"collection"> {
  readonly end: "done" | "planned" | "nothing-to-do" | "gave-up" | "fenced";
  readonly vaultBytes: number;
  readonly packs: number;
  readonly garbageBytes: number;
  readonly repackedBytes: number;
  readonly copiedBytes: number;
  readonly references: number;
  readonly nodes: number;
  readonly durationMs: number;
}

/** `image delete`. */
export interface DeletedOutput extends OutputHead<"deleted"> {
  readonly itemId: string;
  readonly id: string;
  readonly takenAt: string;
}

/** `vault prune`. */
export interface PruneOutput extends OutputHead<"prune"> {
  readonly isDryRun: boolean;
  readonly points: readonly PrunedPointOutput[];
  readonly collection?: CollectionOutput;
}

/** A point that a pruning kept or deleted. */
export interface PrunedPointOutput {
  readonly itemId: string;
  readonly id: string;
  readonly takenAt: string;
  readonly keptBy: readonly string[];
}
