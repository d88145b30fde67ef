/** Random access to the content of one disk at one instant, and to the target of a restore. */

/** What a range of a disk holds. `zero` reads as zero bytes, allocated or not. */
export type ExtentKind = "data" | "zero";

/** A range of a disk. Offsets and lengths in bytes; both are safe integers. */
export interface Extent {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly kind: ExtentKind;
}

/**
 * Reads a disk whose content does not change while the reader is open.
 *
 * Calls may overlap. Errors: DiskReadFailed (backoff), Nbd* where the disk is reached by NBD,
 * ImageChangedDuringRead from {@link DiskReader.assertUnchanged}.
 */
export interface DiskReader extends AsyncDisposable {
  /** A multiple of 512. */
  readonly sizeBytes: number;
  /** How many reads in flight make this reader fastest; 1 to 64. */
  readonly readsInFlight: number;
  /** Fills all of `target` from `offsetBytes`; the range lies inside the disk. Holes read as zeros. */
  read(offsetBytes: number, target: Uint8Array, signal?: AbortSignal): Promise<void>;
  /**
   * The extents of the whole disk in order, adjacent, from 0 to `sizeBytes`. Neighbours of one
   * kind may come apart. `data` may still hold zeros; `zero` never holds data.
   */
  extents(signal?: AbortSignal): AsyncIterable<Extent>;
  /** Throws ImageChangedDuringRead if the content may have changed since the reader was opened. */
  assertUnchanged(): Promise<void>;
}

/**
 * What changed on a disk between two snapshots, as extents in order that do not overlap, on
 * 4 KiB boundaries (the last may end at the end of the disk). `zero` extents were discarded or
 * written with zeros. What is not named is unchanged.
 */
export type ChangedExtents = readonly Extent[];

/** The target of a restore. Calls may overlap in time but not in range. */
export interface DiskWriter extends AsyncDisposable {
  readonly sizeBytes: number;
  /** Writes `bytes` at `offsetBytes`; the target is done with `bytes` when it resolves. */
  write(offsetBytes: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void>;
  /** Makes the range read as zeros, sparse where the target can. A fresh target is all zeros. */
  zero(offsetBytes: number, lengthBytes: number, signal?: AbortSignal): Promise<void>;
  /** Makes everything written durable, under its final name. Call once, last; without it the target is removed on dispose. */
  commit(signal?: AbortSignal): Promise<void>;
}
