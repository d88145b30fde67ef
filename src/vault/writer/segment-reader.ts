/** Reads the content of segments into their buffers. */
import { allEnded } from "#base/all-ended.ts";
import { Semaphore } from "#base/semaphore.ts";
import { pageBytes, regionBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import type { DiskReader } from "#ports/disk.ts";
import { pageReadsInFlight, segmentBytes } from "#vault/limits.ts";
import { pageChanges, type TouchedWindow } from "#vault/writer/segment-plan.ts";

/** Where old content starts in the buffer of a pages segment. */
export const oldOffsetBytes = segmentBytes / 2;

/** Where each slot of a pages segment belongs; see `ScanPagesTask`. */
export interface PageLayout {
  readonly pageInWindow: Uint8Array;
  readonly windowStarts: Uint32Array;
  readonly windowRegions: Uint32Array;
}

/**
 * Reads parts of one disk; what lies beyond its end reads as zeros. A call that throws has ended:
 * nothing is read into its buffer any more.
 */
export class SegmentReader {
  readonly #reader: DiskReader;
  readonly #reads = new Semaphore(pageReadsInFlight);
  readonly #signal: AbortSignal | undefined;
  #bytesRead = 0;

  constructor(reader: DiskReader, signal: AbortSignal | undefined) {
    this.#reader = reader;
    this.#signal = signal;
  }

  /** Bytes that were read so far. */
  get bytesRead(): number {
    return this.#bytesRead;
  }

  /** Reads whole windows, ascending, one after the other into `buffer`. */
  async readWindows(windows: readonly number[], buffer: ArrayBuffer): Promise<void> {
    const reads: Promise<void>[] = [];
    for (let at = 0; at < windows.length;) {
      const first = windows[at] ?? 0;
      let count = 1;
      while (windows[at + count] === first + count) count++;
      const target = new Uint8Array(buffer, at * windowBytes, count * windowBytes);
      reads.push(this.#read(first * windowBytes, target));
      at += count;
    }
    await allEnded(reads);
  }

  /**
   * Reads the changed pages of windows, one after the other into `buffer` from `startBytes` on.
   * Pages noted as zero are not read where `zerosKnown`; they are filled with zeros.
   */
  async readPages(
    windows: readonly TouchedWindow[],
    place: {
      readonly buffer: ArrayBuffer;
      readonly startBytes: number;
      readonly zerosKnown: boolean;
    },
  ): Promise<void> {
    const reads: Promise<void>[] = [];
    let at = place.startBytes;
    for (const { window, pages } of windows) {
      for (let page = 0; page < windowPages;) {
        const change = pages[page];
        if (change === pageChanges.none) {
          page++;
          continue;
        }
        const skip = change === pageChanges.zero && place.zerosKnown;
        let count = 1;
        while (
          page + count < windowPages &&
          isAlike(pages[page + count], change, place.zerosKnown)
        ) {
          count++;
        }
        const target = new Uint8Array(place.buffer, at, count * pageBytes);
        if (skip) target.fill(0);
        else reads.push(this.#read(window * windowBytes + page * pageBytes, target));
        at += target.byteLength;
        page += count;
      }
    }
    await allEnded(reads);
  }

  async #read(offsetBytes: number, target: Uint8Array): Promise<void> {
    const inside = Math.min(target.byteLength, this.#reader.sizeBytes - offsetBytes);
    if (inside < target.byteLength) target.fill(0, Math.max(0, inside));
    if (inside <= 0) return;
    await this.#reads.run(() =>
      this.#reader.read(offsetBytes, target.subarray(0, inside), this.#signal),
    );
    this.#bytesRead += inside;
  }
}

/** The layout of a pages segment with these windows. */
export function layOutPages(windows: readonly TouchedWindow[]): PageLayout {
  const pageInWindow: number[] = [];
  const windowStarts = new Uint32Array(windows.length);
  const windowRegions = new Uint32Array(windows.length);
  for (const [at, { window, pages }] of windows.entries()) {
    windowStarts[at] = pageInWindow.length;
    windowRegions[at] = Math.floor((window * windowBytes) / regionBytes);
    for (let page = 0; page < windowPages; page++) {
      if (pages[page] !== pageChanges.none) pageInWindow.push(page);
    }
  }
  return { pageInWindow: Uint8Array.from(pageInWindow), windowStarts, windowRegions };
}

function isAlike(change: number | undefined, first: number | undefined, apart: boolean): boolean {
  return apart ? change === first : change !== pageChanges.none && change !== undefined;
}
