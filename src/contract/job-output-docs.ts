/** What the members of the JSON output about jobs of VMs mean; part of docs/reference/output.md. */
import type {
  ExpiryOutput,
  JobOutput,
  SlowCauseOutput,
  SnapshotOutput,
  TaskOutput,
  TieredDiskOutput,
  TieredPointOutput,
  TimingOutput,
  TransferOutput,
  VmPointsOutput,
} from "#contract/cli-output.ts";
import { type Members, type ShapeDoc, toDocument, toPart } from "#contract/shape-doc.ts";

const snapshot: Members<SnapshotOutput> = {
  point: ["tiered point", "the recovery point, which is in its snapshot"],
  job: ["job", "both tasks; of a transfer that failed the error is told too, and is the exit code"],
  durationMs: ["number", "of the whole job"],
  warnings: ["list of text", "what went wrong without loss"],
};

const transfer: Members<TransferOutput> = {
  transfer: ["task", "why nothing was sent"],
};

const expiry: Members<ExpiryOutput> = {
  expired: ["list of text", "recovery points whose snapshots went"],
  expiredEarly: ["list of text", "of these, the ones that went before their days were over"],
  warnings: ["list of text", "what is left to do, which the next expiry goes on with"],
};

const job: Members<JobOutput> = {
  status: ["text", "`Completed` or `CompletedWithWarnings`; a job without a snapshot is an error"],
  snapshot: ["task", "Take Snapshot"],
  transfer: ["task", "Transfer data to vault"],
  expired: expiry.expired,
  expiredEarly: expiry.expiredEarly,
};

const task: Members<TaskOutput> = {
  status: ["text", "`Completed`, `Skipped` or `Failed`"],
  reason: ["text?", "why, unless it is completed"],
  code: ["text?", "code of the error where it failed"],
};

const vmPoints: Members<VmPointsOutput> = {
  isVaultAsked: [
    "boolean",
    "whether points of a vault are among them; else only snapshots are known",
  ],
  points: ["list of tiered point", "oldest first"],
  unreadable: ["list of unreadable point", "points whose manifests cannot be read"],
};

const tieredPoint: Members<TieredPointOutput> = {
  id: ["text", "id of the recovery point, the same in every tier"],
  itemId: ["text", "id of the protected item"],
  itemName: ["text", "its name, for people"],
  takenAt: ["time", "the instant that the point holds"],
  consistency: ["text", "as in point"],
  consistencyReason: ["text?", "why it is not better"],
  frozenMs: ["number?", "how long the guest was frozen"],
  tiers: ["list of text", "`snapshot`, `vault` or both"],
  snapshotExpiresAt: ["time?", "when the days of its snapshot are over"],
  committedAt: ["time?", "when it was committed to the vault"],
  disks: ["list of tiered disk", "its disks"],
};

const tieredDisk: Members<TieredDiskOutput> = {
  name: ["text", "name within the VM"],
  sizeBytes: ["number", "what the VM sees"],
};

const timing: Members<TimingOutput> = {
  preparationMs: ["number", "before the snapshot: configuration, room, what the guest needs"],
  snapshotMs: ["number", "the snapshot, the time that the guest was frozen included"],
  changesMs: ["number", "finding out what changed"],
  transferMs: ["number", "reading, packing and storing, up to the commit"],
};

const slowCause: Members<SlowCauseOutput> = {
  disk: ["text", "name of the disk"],
  cause: ["text", "`first-backup`, `new-disk`, `checksum`, `high-churn` or `fragmented`"],
  text: ["text", "the same for people"],
};

/** Documents about jobs of VMs and their recovery points. */
export const jobDocuments: readonly ShapeDoc[] = [
  toDocument("snapshot", "`vm backup` that sent no point", { ...snapshot }),
  toDocument("transfer", "`vm transfer` that had nothing to send", { ...transfer }),
  toDocument("expiry", "`vm expire`", { ...expiry }),
  toDocument("vm-points", "`vm points`", { ...vmPoints }),
];

/** Their parts. */
export const jobParts: readonly ShapeDoc[] = [
  toPart("timing", { ...timing }),
  toPart("slow cause", { ...slowCause }),
  toPart("job", { ...job }),
  toPart("task", { ...task }),
  toPart("tiered point", { ...tieredPoint }),
  toPart("tiered disk", { ...tieredDisk }),
];
