/**
 * Packs whose blocks count as absent for dedup, although restores may still try them: damaged,
 * absent or condemned ones.
 *
 * Entries of a pack have consecutive numbers, so a few ranges of numbers answer for any entry
 * without reading a page; while nothing is distrusted the question costs nothing.
 */
import { asBuffer } from "#base/bytes.ts";
import type { EntryReader, LoadedSegment } from "./entry-reader.ts";

/** Reads from a segment, after repair where its cache is damaged; `undefined` where it is lost. */
export type SegmentRead = <T>(segment: LoadedSegment, read: () => T) => Promise<T | undefined>;

interface NumberRange {
  readonly start: number;
  readonly end: number;
}

/** See the file's head. */
export class DistrustedPacks {
  readonly #entries: EntryReader;
  readonly #read: SegmentRead;
  #names = new Set<string>();
  #ranges: NumberRange[] = [];

  constructor(entries: EntryReader, read: SegmentRead) {
    this.#entries = entries;
    this.#read = read;
  }

  /** Whether no entry lies in a distrusted pack. */
  get isEmpty(): boolean {
    return this.#ranges.length === 0;
  }

  /** Whether the entry of that number lies in a distrusted pack. */
  holds(number: number): boolean {
    const ranges = this.#ranges;
    if (ranges.length === 0) return false;
    let low = 0;
    let high = ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((ranges[middle] as NumberRange).start <= number) low = middle + 1;
      else high = middle;
    }
    return low > 0 && number < (ranges[low - 1] as NumberRange).end;
  }

  /** Replaces the whole set. What was distrusted stays so until the new set is known. */
  async replace(names: readonly Uint8Array[]): Promise<void> {
    const fresh = new Set(names.map(keyOf));
    const before = this.#names;
    // Segments that are added meanwhile are noted for both sets.
    this.#names = new Set([...before, ...fresh]);
    const ranges: NumberRange[] = [];
    // The list may grow while it is walked.
    for (let at = 0; fresh.size > 0 && at < this.#entries.segments.length; at++) {
      const segment = this.#entries.segments[at];
      if (segment !== undefined) await this.#collect(segment, fresh, ranges);
    }
    this.#names = fresh;
    this.#ranges = sorted(ranges);
  }

  /** Takes in a segment that has just got its numbers. */
  async note(segment: LoadedSegment): Promise<void> {
    if (this.#names.size === 0) return;
    const found: NumberRange[] = [];
    await this.#collect(segment, this.#names, found);
    this.#ranges = sorted([...this.#ranges, ...found]);
  }

  async #collect(
    segment: LoadedSegment,
    names: ReadonlySet<string>,
    ranges: NumberRange[],
  ): Promise<void> {
    for (let at = 0; at < segment.shape.packs; at++) {
      const extent = await this.#read(segment, () => this.#entries.packExtent(segment, at));
      if (extent === undefined) return;
      const { head, firstNumber, entries } = extent;
      if (entries === 0 || !names.has(keyOf(head.name))) continue;
      ranges.push({ start: firstNumber, end: firstNumber + entries });
    }
  }
}

function sorted(ranges: readonly NumberRange[]): NumberRange[] {
  return ranges.toSorted((a, b) => a.start - b.start);
}

function keyOf(name: Uint8Array): string {
  return asBuffer(name).toString("latin1");
}
