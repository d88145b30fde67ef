/**
 * How the changes of one disk are found, best method first; pure.
 *
 * A method is used only where it is certain to name every change since the recovery point that the
 * new one builds on. Everything else is compared by checksum, and the reason is kept.
 */
import type { RecoveryPoint, RecoveryPointDisk } from "#vault/recovery-point.ts";

/** What is known before a disk is read. */
export interface TrackingFacts {
  /** The recovery point to build on, where the item has one. */
  readonly base: RecoveryPoint | undefined;
  /** Name of the disk in it. */
  readonly diskName: string;
  /** Of the image below an overlay that tells its changes. */
  readonly backingIdentity?: string;
  /** Name of a dirty bitmap that holds the changes since `base`. */
  readonly bitmap?: string;
}

/** The method for one disk. */
export type TrackingPlan =
  | { readonly method: "full"; readonly reason?: string }
  | { readonly method: "overlay" | "bitmap"; readonly baseDisk: RecoveryPointDisk }
  | { readonly method: "checksum"; readonly baseDisk: RecoveryPointDisk; readonly reason: string };

/** Chooses the method for an image. */
export function planTracking(facts: TrackingFacts): TrackingPlan {
  const { base, diskName, backingIdentity, bitmap } = facts;
  if (base === undefined) return { method: "full" };
  const baseDisk = base.disks.find((disk) => disk.name === diskName);
  if (baseDisk === undefined) {
    return { method: "full", reason: `recovery point ${base.pointId} has no disk "${diskName}"` };
  }
  if (bitmap !== undefined) return { method: "bitmap", baseDisk };
  if (backingIdentity === undefined) {
    const reason = "the image does not tell its changes: it is no qcow2 overlay";
    return { method: "checksum", baseDisk, reason };
  }
  if (baseDisk.source === undefined) {
    const reason = "the last recovery point does not say which file it was read from";
    return { method: "checksum", baseDisk, reason };
  }
  if (baseDisk.source !== backingIdentity) {
    const reason =
      "the image below the overlay is not the file of the last recovery point as it was";
    return { method: "checksum", baseDisk, reason };
  }
  return { method: "overlay", baseDisk };
}
