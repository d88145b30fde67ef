/** Which ranges of a fresh target were written, so that only those need zeros. */

interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** Most ranges that are kept apart. */
export const WRITTEN_RANGES_MAX = 100_000;

/**
 * A set of ranges in order. Beyond its limit it joins ranges over the smallest gaps, so it may name
 * bytes that were not written, and never leaves out one that was.
 */
export class WrittenRanges {
  readonly #rangesMax: number;
  #ranges: ByteRange[] = [];
  #gapBytes = 4096;

  constructor(rangesMax = WRITTEN_RANGES_MAX) {
    this.#rangesMax = rangesMax;
  }

  add(offsetBytes: number, lengthBytes: number): void {
    if (lengthBytes === 0) return;
    let start = offsetBytes;
    let end = offsetBytes + lengthBytes;
    const first = this.#firstEndingAtOrAfter(start);
    let after = first;
    for (; after < this.#ranges.length; after++) {
      const range = this.#ranges[after] as ByteRange;
      if (range.start > end) break;
      start = Math.min(start, range.start);
      end = Math.max(end, range.end);
    }
    this.#ranges.splice(first, after - first, { start, end });
    while (this.#ranges.length > this.#rangesMax) this.#coarsen();
  }

  /** The written parts of a range, in order. */
  within(offsetBytes: number, lengthBytes: number): readonly ByteRange[] {
    const endBytes = offsetBytes + lengthBytes;
    const parts: ByteRange[] = [];
    if (lengthBytes === 0) return parts;
    const first = this.#firstEndingAtOrAfter(offsetBytes + 1);
    for (let index = first; index < this.#ranges.length; index++) {
      const range = this.#ranges[index] as ByteRange;
      if (range.start >= endBytes) break;
      const start = Math.max(range.start, offsetBytes);
      parts.push({ start, end: Math.min(range.end, endBytes) });
    }
    return parts;
  }

  /** Index of the first range whose end is at or behind `place`; binary search. */
  #firstEndingAtOrAfter(place: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ranges[middle] as ByteRange).end < place) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #coarsen(): void {
    const joined: ByteRange[] = [];
    for (const range of this.#ranges) {
      const last = joined.at(-1);
      if (last !== undefined && range.start - last.end <= this.#gapBytes) {
        joined[joined.length - 1] = { start: last.start, end: range.end };
      } else {
        joined.push(range);
      }
    }
    this.#ranges = joined;
    this.#gapBytes *= 2;
  }
}
