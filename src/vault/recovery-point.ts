/** Recovery points in the words of the layers above the vault. */
import { systemClock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import type { ChangeTracking, Manifest, ManifestDisk } from "#formats/manifest.ts";
import { createPointId, parsePointId, pointIdTimeMs } from "#formats/store-names.ts";
import type { DiskReader, DiskWriter } from "#ports/disk.ts";
import { restoreSegmentBytes } from "#vault/limits.ts";
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

/** Bytes in flight for each disk that is restored. */
export const restoreBytesInFlight = restoreSegmentBytes * 3;

/** Copies a disk of a recovery point to a target and commits that; see `restoreDisk`. */
export async function copyToTarget(
  reader: DiskReader,
  writer: DiskWriter,
  options: { readonly signal?: AbortSignal; readonly onProgress: (doneBytes: number) => void },
): Promise<RestoredBytes> {
  const segments = restoreBytesInFlight / restoreSegmentBytes;
  return await restoreDisk(reader, writer, { ...options, signal: options.signal, segments });
}
