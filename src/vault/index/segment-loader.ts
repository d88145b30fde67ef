/** Brings index segments into the table: from the local cache if it is whole, else from the vault. */
import { assert } from "#base/assert.ts";
import type { IndexPackColumns } from "#formats/index-segment.ts";
import { cachePageBytes } from "#vault/cache/cache-page.ts";
import { CacheUnreadable, type PageSource } from "#vault/cache/page-source.ts";
import type { SegmentCache } from "#vault/cache/segment-cache.ts";
import {
  buildSegmentPages,
  parseHead,
  recordBytes,
  recordsPerPage,
  type SegmentShape,
} from "#vault/cache/segment-layout.ts";
import { type EntryReader, type LoadedSegment, readChecked } from "./entry-reader.ts";
import type { IdTable } from "./id-table.ts";

/** Reads one index segment of the vault. Errors are those of the store, ObjectCorrupt, KeyWrong. */
export type SegmentReader = (
  name: Uint8Array,
  signal?: AbortSignal,
) => Promise<readonly IndexPackColumns[]>;

/** Pages that are read and entered between two turns of the event loop. */
const pagesAtOnce = 64;
/** How often a segment is built anew for one read of it. */
export const repairsPerReadMax = 8;

/** A segment that is whole in the cache, not yet in the table. */
export interface PreparedSegment {
  readonly name: Uint8Array;
  readonly shape: SegmentShape;
  readonly source: PageSource;
}

/** What a loader fills. */
export interface LoaderDeps {
  readonly cache: SegmentCache;
  readonly readSegment: SegmentReader;
  readonly entries: EntryReader;
  readonly table: IdTable;
  /** Whether an entry with the id at `ids[at]` is in the table. */
  readonly isKnown: (ids: Uint8Array, at: number) => boolean;
  /** Called when a segment has its numbers, before any of its entries can be found. */
  readonly onAdded: (segment: LoadedSegment) => Promise<void>;
}

/** See the file's head. */
export class SegmentLoader {
  readonly #deps: LoaderDeps;
  #rebuilt = 0;

  constructor(deps: LoaderDeps) {
    this.#deps = deps;
  }

  /** Segments that were built because the cache lacked them or held them damaged. */
  get rebuilt(): number {
    return this.#rebuilt;
  }

  /** Finds a segment in the cache, or reads it from the vault into the cache. */
  async prepare(name: Uint8Array, signal?: AbortSignal): Promise<PreparedSegment> {
    const source = this.#deps.cache.find(name);
    const shape = source === undefined ? undefined : readShape(name, source);
    if (source !== undefined && shape !== undefined) return { name, shape, source };
    return await this.keep(name, await this.#deps.readSegment(name, signal));
  }

  /** Writes a decoded segment into the cache. */
  async keep(name: Uint8Array, packs: readonly IndexPackColumns[]): Promise<PreparedSegment> {
    const { shape, bytes } = buildSegmentPages(name, packs);
    this.#rebuilt++;
    return { name, shape, source: await this.#deps.cache.write(name, bytes) };
  }

  /** Gives a prepared segment numbers and enters all of its entries. */
  async enter(prepared: PreparedSegment, signal?: AbortSignal): Promise<void> {
    const { entries } = this.#deps;
    const segment = entries.add(prepared.name, prepared.shape, prepared.source);
    await this.#deps.onAdded(segment);
    const { entryPage, framePage } = segment.layout;
    const buffer = new Uint8Array(Math.min(pagesAtOnce, framePage) * cachePageBytes);
    for (let page = entryPage; page < framePage; page += pagesAtOnce) {
      const pages = Math.min(pagesAtOnce, framePage - page);
      await this.#readPages(segment, page, buffer.subarray(0, pages * cachePageBytes));
      this.#enterPages(segment, page, buffer.subarray(0, pages * cachePageBytes));
      await nextTurn();
      signal?.throwIfAborted();
    }
    segment.state = "whole";
  }

  /** Reads a segment again from the vault, in place of what the cache holds of it. */
  async rebuild(segment: LoadedSegment, signal?: AbortSignal): Promise<void> {
    const packs = await this.#deps.readSegment(segment.name, signal);
    const { shape, source } = await this.keep(segment.name, packs);
    const { entries, frames } = segment.shape;
    assert(shape.entries === entries && shape.frames === frames, "a segment never changes");
    segment.source = source;
  }

  async #readPages(segment: LoadedSegment, page: number, target: Uint8Array): Promise<void> {
    for (let repairs = 0; ; repairs++) {
      try {
        readChecked(segment, page, target);
        return;
      } catch (error) {
        // Other processes on the same cache may damage it again before it is read.
        if (!(error instanceof CacheUnreadable) || repairs === repairsPerReadMax) throw error;
        await this.rebuild(segment);
      }
    }
  }

  #enterPages(segment: LoadedSegment, firstPage: number, pages: Uint8Array): void {
    const { table, isKnown } = this.#deps;
    const perPage = recordsPerPage.entry;
    for (let at = 0; at * cachePageBytes < pages.length; at++) {
      const firstIndex = (firstPage - segment.layout.entryPage + at) * perPage;
      const count = Math.min(perPage, segment.shape.entries - firstIndex);
      const number = segment.firstNumber + firstIndex;
      for (let index = 0; index < count; index++) {
        const idAt = at * cachePageBytes + index * recordBytes.entry;
        if (table.insert(pages, idAt, number + index, false)) continue;
        if (!isKnown(pages, idAt)) table.insert(pages, idAt, number + index, true);
      }
    }
  }
}

function readShape(name: Uint8Array, source: PageSource): SegmentShape | undefined {
  const head = new Uint8Array(cachePageBytes);
  try {
    readChecked({ name, source }, 0, head);
  } catch (error) {
    if (error instanceof CacheUnreadable) return undefined;
    throw error;
  }
  return parseHead(head, name);
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
