/**
 * A disk as the vault stores it, page by page, without any content: which block and frame each page
 * lies in after a full backup and any number of increments.
 */
import { present } from "#base/assert.ts";
import {
  frameBytesMax,
  idBytes,
  leafWindows,
  pageBytes,
  regionBytes,
  windowPages,
} from "#formats/geometry.ts";
import type { Leaf, Piece, WindowMap } from "#formats/map-node.ts";
import { createPrng } from "#testing/seed.ts";

/** Pages that one leaf covers. */
export const leafPages = leafWindows * windowPages;
/** What a restore writes as one. */
const segmentPages = (4 * 1024 * 1024) / pageBytes;
const regionPages = regionBytes / pageBytes;
const pagesPerMebibyte = (1024 * 1024) / pageBytes;
/** Checksums are drawn from other seeds than ids. */
const checksumSeeds = 2 ** 30;
const windowsPerFrame = frameBytesMax / pageBytes / windowPages;

/** How far a disk has fallen to pieces, and what that means for a restore of it. */
export interface Fragmentation {
  /** Bytes of all frames that a restore has to decode, as a multiple of the disk. */
  readonly decoded: number;
  /** Distinct frames that 4 MiB of the disk lie in: mean, and the most. */
  readonly framesPerSegment: number;
  readonly framesPerSegmentMax: number;
  /** The most that is in use at once in a restore in disk order, if each frame is decoded once. */
  readonly workingSetMiB: number;
  /** Pieces of a window: mean, 95th percentile, the most. */
  readonly pieces: number;
  readonly pieces95: number;
  readonly piecesMax: number;
}

/** See the head of the file. */
export class DiskModel {
  readonly pages: number;
  readonly #block: Int32Array;
  readonly #offset: Uint8Array;
  readonly #frameOfBlock: number[] = [];
  readonly #framePages: number[] = [];
  readonly #blocksPerFrame: number;

  /**
   * A full backup of a disk without zeros.
   *
   * @param blocksPerFrame Blocks of changed pages that share a frame.
   */
  constructor(pages: number, blocksPerFrame: number) {
    this.pages = pages;
    this.#block = new Int32Array(pages);
    this.#offset = new Uint8Array(pages);
    this.#blocksPerFrame = blocksPerFrame;
    this.#storeWindows(Array.from({ length: pages / windowPages }, (_, window) => window));
  }

  /** Stores changed pages, and some windows whole; both ascending. Returns the pages stored. */
  store(changed: Iterable<number>, wholeWindows: readonly number[]): number {
    const whole = new Set(wholeWindows);
    this.#storeWindows(wholeWindows);
    let stored = whole.size * windowPages;
    let region = -1;
    let block = -1;
    let blockPages = windowPages;
    let blocks = 0;
    for (const page of changed) {
      if (whole.has(Math.floor(page / windowPages))) continue;
      const isOther = Math.floor(page / regionPages) !== region;
      if (isOther || blockPages === windowPages) {
        if (isOther || blocks % this.#blocksPerFrame === 0) this.#framePages.push(0);
        blocks = isOther ? 1 : blocks + 1;
        region = Math.floor(page / regionPages);
        block = this.#frameOfBlock.push(this.#framePages.length - 1) - 1;
        blockPages = 0;
      }
      this.#put(page, block, blockPages++);
      stored++;
    }
    return stored;
  }

  /** Pieces of a window. */
  piecesOf(window: number): number {
    let pieces = 1;
    const end = (window + 1) * windowPages;
    for (let page = window * windowPages + 1; page < end; page++) {
      if (!this.#goesOn(page)) pieces++;
    }
    return pieces;
  }

  /** A leaf as the vault would hold it. */
  leafAt(index: number): Leaf {
    const windows: WindowMap[] = [];
    for (let window = index * leafWindows; window < (index + 1) * leafWindows; window++) {
      windows.push(this.#windowAt(window));
    }
    return { windows };
  }

  /** Measures the disk as it is now. */
  measure(): Fragmentation {
    const pieces = Array.from({ length: this.pages / windowPages }, (_, window) =>
      this.piecesOf(window),
    ).sort((a, b) => a - b);
    return {
      ...this.#measureFrames(),
      pieces: pieces.reduce((sum, count) => sum + count, 0) / pieces.length,
      pieces95: present(pieces[Math.floor(pieces.length * 0.95)], "a disk has windows"),
      piecesMax: present(pieces.at(-1), "a disk has windows"),
    };
  }

  #measureFrames(): Omit<Fragmentation, "pieces" | "pieces95" | "piecesMax"> {
    const segments = this.pages / segmentPages;
    const spans = new Map<number, { first: number; last: number }>();
    let sum = 0;
    let most = 0;
    for (let segment = 0; segment < segments; segment++) {
      const frames = new Set<number>();
      for (let at = 0; at < segmentPages; at++) {
        frames.add(this.#frameOf(segment * segmentPages + at));
      }
      for (const frame of frames) {
        const span = spans.get(frame);
        if (span === undefined) spans.set(frame, { first: segment, last: segment });
        else span.last = segment;
      }
      sum += frames.size;
      most = Math.max(most, frames.size);
    }
    let decoded = 0;
    const opened = new Float64Array(segments + 1);
    for (const [frame, { first, last }] of spans) {
      const pages = present(this.#framePages[frame], "the frame is there");
      decoded += pages;
      opened[first] = (opened[first] ?? 0) + pages;
      opened[last + 1] = (opened[last + 1] ?? 0) - pages;
    }
    let open = 0;
    let workingSet = 0;
    for (const change of opened) {
      open += change;
      workingSet = Math.max(workingSet, open);
    }
    return {
      decoded: decoded / this.pages,
      framesPerSegment: sum / segments,
      framesPerSegmentMax: most,
      workingSetMiB: workingSet / pagesPerMebibyte,
    };
  }

  #storeWindows(windows: readonly number[]): void {
    for (const [at, window] of windows.entries()) {
      if (at % windowsPerFrame === 0) this.#framePages.push(0);
      const block = this.#frameOfBlock.push(this.#framePages.length - 1) - 1;
      for (let page = 0; page < windowPages; page++) {
        this.#put(window * windowPages + page, block, page);
      }
    }
  }

  #put(page: number, block: number, offset: number): void {
    this.#block[page] = block;
    this.#offset[page] = offset;
    const frame = this.#frameOf(page);
    this.#framePages[frame] = (this.#framePages[frame] ?? 0) + 1;
  }

  #frameOf(page: number): number {
    return present(this.#frameOfBlock[this.#block[page] ?? -1], "each page has a frame");
  }

  /** Whether a page lies in its block right after the page before it. */
  #goesOn(page: number): boolean {
    const isSame = this.#block[page] === this.#block[page - 1];
    return isSame && this.#offset[page] === (this.#offset[page - 1] ?? 0) + 1;
  }

  #windowAt(window: number): WindowMap {
    const pieces: Piece[] = [];
    const first = window * windowPages;
    for (let page = first; page < first + windowPages; page++) {
      const last = pieces.at(-1);
      if (last !== undefined && this.#goesOn(page)) {
        pieces[pieces.length - 1] = { ...last, pages: last.pages + 1 };
      } else {
        const block = idOf(present(this.#block[page], "each page has a block"));
        pieces.push({ pages: 1, block, offsetPages: this.#offset[page] ?? 0 });
      }
    }
    return { checksum: idOf(window + checksumSeeds).subarray(0, 16), pieces };
  }
}

/** Looks like what a hash gives, so that nothing compresses that would not. */
function idOf(number: number): Uint8Array {
  return createPrng(number).bytes(idBytes);
}
