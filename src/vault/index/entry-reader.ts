/**
 * Entries by number, read from the cached segments through a fixed number of pages in memory.
 *
 * Numbers count the entries of all segments, one segment after the other. In the order of a pack
 * neighbours lie on one page, so that hits in disk order rarely read.
 */
import { assert, present } from "#base/assert.ts";
import { asBuffer, toHex } from "#base/bytes.ts";
import { containerHeaderBytes, type FrameCodec } from "#formats/container.ts";
import { idBytes } from "#formats/geometry.ts";
import {
  createColumns,
  type IndexPackColumns,
  type IndexPackHead,
} from "#formats/index-segment.ts";
import { cachePageBytes, isCachePage } from "#vault/cache/cache-page.ts";
import type { PageCache } from "#vault/cache/page-cache.ts";
import { CacheUnreadable, type PageSource } from "#vault/cache/page-source.ts";
import {
  firstPage,
  recordBytes,
  recordsPerPage,
  segmentLayout,
  type SegmentLayout,
  type SegmentShape,
} from "#vault/cache/segment-layout.ts";

/** Where a block or node lies in the vault. */
export interface BlockLocation {
  /** Type, name and what opens it; not to be changed. */
  readonly pack: IndexPackHead;
  /** Number of the frame in its pack. */
  readonly frame: number;
  readonly frameOffsetBytes: number;
  /** With frame header and tag. */
  readonly frameSealedBytes: number;
  readonly framePlainBytes: number;
  readonly codec: FrameCodec;
  /** In the plaintext of the frame. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** One segment that is in the index. */
export interface LoadedSegment {
  /** 32 bytes. */
  readonly name: Uint8Array;
  readonly shape: SegmentShape;
  readonly layout: SegmentLayout;
  readonly firstNumber: number;
  /** Key of its page 0 in the page cache. */
  readonly firstKey: number;
  source: PageSource;
  /** `whole` when all entries are in the table; `lost` when neither cache nor vault can be read. */
  state: "loading" | "whole" | "lost";
}

/** What is known of a pack without its entries. */
export interface PackExtent {
  /** Name of the segment that says so, 32 bytes. */
  readonly segmentName: Uint8Array;
  readonly head: IndexPackHead;
  /** Numbers of its entries follow one another from here on. */
  readonly firstNumber: number;
  readonly entries: number;
  /** Where the last frame of content ends: a shorter object cannot be whole. */
  readonly contentEndBytes: number;
}

type RecordKind = "entry" | "frame" | "pack";

const packRefsMax = 256;

/** Reads entries, frames and packs of the segments of an index. */
export class EntryReader {
  readonly #pages: PageCache;
  readonly #segments: LoadedSegment[] = [];
  readonly #firstNumbers: number[] = [];
  /** Heads of packs that were met last, by page key and place. */
  readonly #packRefs: { key: number; head: PackRecord }[] = [];
  #last: LoadedSegment | undefined;
  #numbers = 0;
  #keys = 0;

  constructor(pages: PageCache) {
    this.#pages = pages;
  }

  /** Segments in the order of their numbers. */
  get segments(): readonly LoadedSegment[] {
    return this.#segments;
  }

  /** Entries of all segments; the next segment's first number. */
  get numbers(): number {
    return this.#numbers;
  }

  /** Gives a segment the next numbers. */
  add(name: Uint8Array, shape: SegmentShape, source: PageSource): LoadedSegment {
    const layout = segmentLayout(shape);
    const [firstNumber, firstKey] = [this.#numbers, this.#keys];
    const state = "loading";
    const segment: LoadedSegment = { name, shape, layout, firstNumber, firstKey, source, state };
    this.#segments.push(segment);
    this.#firstNumbers.push(firstNumber);
    this.#numbers += shape.entries;
    this.#keys += layout.pages;
    return segment;
  }

  /** Whether the entry has the id at `ids[at]`; never in a lost segment. Throws {@link CacheUnreadable}. */
  hasId(number: number, ids: Uint8Array, at: number): boolean {
    const segment = this.#segmentOf(number);
    if (segment.state === "lost") return false;
    const offset = this.#record(segment, "entry", number - segment.firstNumber);
    const { bytes } = this.#pages;
    for (let byte = 0; byte < idBytes; byte++) {
      if (bytes[offset + byte] !== ids[at + byte]) return false;
    }
    return true;
  }

  /** Where the entry lies. Throws {@link CacheUnreadable}. */
  locationOf(number: number): BlockLocation {
    const segment = this.#segmentOf(number);
    const { words } = this.#pages;
    const entry = this.#record(segment, "entry", number - segment.firstNumber) / 4;
    const [high, low] = [words[entry + 6] as number, words[entry + 7] as number];
    const frameIndex = high & 0xff_ffff;
    const frame = this.#record(segment, "frame", frameIndex) / 4;
    const owner = words[frame] as number;
    const frameOffsetBytes = words[frame + 1] as number;
    const frameSealedBytes = words[frame + 2] as number;
    const framePlainBytes = words[frame + 3] as number;
    const pack = this.#pack(segment, owner & 0x7fff_ffff);
    return {
      pack: pack.head,
      frame: frameIndex - pack.firstFrame,
      frameOffsetBytes,
      frameSealedBytes,
      framePlainBytes,
      codec: owner >>> 31 === 0 ? "stored" : "zstd",
      offsetBytes: low & 0xf_ffff,
      lengthBytes: (((high >>> 24) << 12) | (low >>> 20)) + 1,
    };
  }

  /** The id of an entry, 24 bytes, in new memory. Throws {@link CacheUnreadable}. */
  idOf(number: number): Uint8Array {
    const segment = this.#segmentOf(number);
    const offset = this.#record(segment, "entry", number - segment.firstNumber);
    return this.#pages.bytes.slice(offset, offset + idBytes);
  }

  /** Name and key material of one pack of a segment. Throws {@link CacheUnreadable}. */
  packHead(segment: LoadedSegment, index: number): IndexPackHead {
    return this.#pack(segment, index).head;
  }

  /** A pack without its entries: which numbers those have, and where its frames end. Throws {@link CacheUnreadable}. */
  packExtent(segment: LoadedSegment, index: number): PackExtent {
    const { head, firstFrame, frames, firstEntry, entries } = this.#pack(segment, index);
    let contentEndBytes = containerHeaderBytes;
    if (frames > 0) {
      const word = this.#record(segment, "frame", firstFrame + frames - 1) / 4;
      const { words } = this.#pages;
      contentEndBytes = (words[word + 1] as number) + (words[word + 2] as number);
    }
    return {
      segmentName: segment.name,
      head,
      firstNumber: segment.firstNumber + firstEntry,
      entries,
      contentEndBytes,
    };
  }

  /** One pack of a segment with all its entries. Throws {@link CacheUnreadable}. */
  readPack(segment: LoadedSegment, index: number): IndexPackColumns {
    const { head, firstFrame, frames, firstEntry, entries } = this.#pack(segment, index);
    const columns = createColumns(head, frames, entries);
    const { bytes, words } = this.#pages;
    for (let at = 0; at < frames; at++) {
      const word = this.#record(segment, "frame", firstFrame + at) / 4;
      columns.codecs[at] = (words[word] as number) >>> 31;
      columns.sealedBytes[at] = words[word + 2] as number;
      columns.plainBytes[at] = words[word + 3] as number;
    }
    for (let at = 0; at < entries; at++) {
      const offset = this.#record(segment, "entry", firstEntry + at);
      const [high, low] = [words[offset / 4 + 6] as number, words[offset / 4 + 7] as number];
      columns.ids.set(bytes.subarray(offset, offset + idBytes), at * idBytes);
      columns.entryFrames[at] = (high & 0xff_ffff) - firstFrame;
      columns.offsetsBytes[at] = low & 0xf_ffff;
      columns.lengthsBytes[at] = (((high >>> 24) << 12) | (low >>> 20)) + 1;
    }
    return columns;
  }

  #segmentOf(number: number): LoadedSegment {
    const last = this.#last;
    if (last !== undefined) {
      const at = number - last.firstNumber;
      if (at >= 0 && at < last.shape.entries) return last;
    }
    assert(number < this.#numbers, "an entry number belongs to a segment");
    let low = 0;
    let high = this.#firstNumbers.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((this.#firstNumbers[middle] as number) <= number) low = middle;
      else high = middle;
    }
    this.#last = present(this.#segments[low], "the segment of a number");
    return this.#last;
  }

  /** Offset of a record in the memory of pages, after reading its page if need be. */
  #record(segment: LoadedSegment, kind: RecordKind, index: number): number {
    const perPage = recordsPerPage[kind];
    const page = Math.floor(index / perPage);
    const at = firstPage(segment.layout, kind) + page;
    const key = segment.firstKey + at;
    let offset = this.#pages.find(key);
    if (offset < 0) {
      offset = this.#pages.read(key, (target) => {
        readChecked(segment, at, target);
      });
    }
    return offset + (index - page * perPage) * recordBytes[kind];
  }

  #pack(segment: LoadedSegment, index: number): PackRecord {
    const key = segment.firstKey * 2 ** 21 + index;
    const place = (segment.firstKey + index) % packRefsMax;
    const known = this.#packRefs[place];
    if (known?.key === key) return known.head;
    const offset = this.#record(segment, "pack", index);
    const head = parsePack(this.#pages.bytes.subarray(offset, offset + recordBytes.pack));
    this.#packRefs[place] = { key, head };
    return head;
  }
}

interface PackRecord {
  readonly head: IndexPackHead;
  readonly firstFrame: number;
  readonly frames: number;
  readonly firstEntry: number;
  readonly entries: number;
}

/**
 * Reads pages of a segment from `firstPage` on into `target`, a whole number of pages. Throws
 * {@link CacheUnreadable} where one is damaged.
 */
export function readChecked(
  segment: { readonly name: Uint8Array; readonly source: PageSource },
  firstPage: number,
  target: Uint8Array,
): void {
  segment.source.readPages(target, firstPage);
  for (let at = 0; at * cachePageBytes < target.length; at++) {
    const bytes = target.subarray(at * cachePageBytes, (at + 1) * cachePageBytes);
    const page = firstPage + at;
    if (isCachePage(bytes, { name: segment.name, page })) continue;
    throw new CacheUnreadable(toHex(segment.name), `page ${page} is damaged`);
  }
}

function parsePack(record: Uint8Array): PackRecord {
  const view = asBuffer(record);
  return {
    head: {
      type: view.readUInt32LE(64) === 1 ? "pack" : "mapPack",
      name: record.slice(0, 32),
      salt: record.slice(32, 64),
      epoch: view.readUInt32LE(68),
    },
    firstFrame: view.readUInt32LE(72),
    frames: view.readUInt32LE(76),
    firstEntry: view.readUInt32LE(80),
    entries: view.readUInt32LE(84),
  };
}
