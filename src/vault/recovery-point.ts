/** Recovery points in the words of the layers above the vault. */
import { systemClock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import type { ChangeTracking, Manifest, ManifestDisk } from "#formats/manifest.ts";
import { createPointId, parsePointId, pointIdTimeMs } from "#formats/store-names.ts";
import type { DiskReader, DiskWriter } from "#ports/disk.ts";
import { restoreBytesInFlight, restoreSegmentsPerDisk, segmentBytes } from "#vault/limits.ts";
import { restoreDisk, type RestoreTotals } from "#vault/reader/restore-disk.ts";
import type { DiskInput, PointInput, WrittenPoint } from "#vault/writer/point-writer.ts";

/** A recovery point as committed. */
export type RecoveryPoint = Manifest;
/** One disk of a recovery point. */
export type RecoveryPointDisk = ManifestDisk;
/** How the changes of a disk were found. */
export type Tracking = ChangeTracking;
/** A recovery point that is to be written. */
export type NewRecoveryPoint = PointInput;
/** One disk of a recovery point that is to be written. */
export type NewDisk = DiskInput;
/** A recovery point that was just committed. */
export type CommittedPoint = WrittenPoint;
/** Bytes that a restore wrote and left sparse. */
export type RestoredBytes = RestoreTotals;

/** An id for a recovery point of the instant `takenAtMs`; points of an item sort by their instants. */
export function newPointId(takenAtMs: number, random: RandomSource): string {
  return createPointId({ ...systemClock, nowMs: () => takenAtMs }, random);
}

/** Checks a recovery point id that a user typed; ArgumentInvalid (after-change). */
export function checkPointId(text: string): string {
  return parsePointId(text);
}

/** The instant in a recovery point id; for people only. */
export function pointTimeMs(pointId: string): number {
  return pointIdTimeMs(pointId);
}

/**
 * Copies a disk of a recovery point to a target and commits that; see `restoreDisk`.
 *
 * @param options.disksAtOnce Disks that are copied at the same time, this one included: they share
 *   `restoreBytesInFlight`. By default 1.
 */
export async function copyToTarget(
  reader: DiskReader,
  writer: DiskWriter,
  options: {
    readonly disksAtOnce?: number;
    readonly signal?: AbortSignal;
    readonly onProgress: (doneBytes: number) => void;
  },
): Promise<RestoredBytes> {
  const { disksAtOnce = 1, signal, onProgress } = options;
  const segments = restoreSegmentsPerDisk;
  // Of whole segments of a backup, so that most of its frames lie in one region.
  const parts = Math.floor(restoreBytesInFlight / segments / disksAtOnce / segmentBytes);
  const bytes = Math.max(1, parts) * segmentBytes;
  return await restoreDisk(reader, writer, { segments, segmentBytes: bytes, signal, onProgress });
}
