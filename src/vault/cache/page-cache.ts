/**
 * A fixed number of pages in memory, checked when they are read.
 *
 * Eight-way sets with the oldest of a set replaced: no map, no list, and entries in the order of a
 * pack lie on the page that was used last.
 */
import { assert } from "#base/assert.ts";
import { cachePageBytes } from "./cache-page.ts";

const ways = 8;

/** Pages by key. Keys are integers from 0 below 2^32 - 1. */
export class PageCache {
  /** All pages, one after the other. */
  readonly bytes: Uint8Array;
  /** The same as little-endian words. */
  readonly words: Uint32Array;
  /** Key of each page, plus one; 0 where the place is free. */
  readonly #keys: Uint32Array;
  readonly #oldest: Uint8Array;
  readonly #sets: number;
  #lastKey = -1;
  #lastOffset = -1;
  #reads = 0;

  /** @param sizeBytes Of all pages together. */
  constructor(sizeBytes: number) {
    this.#sets = Math.floor(sizeBytes / cachePageBytes / ways);
    assert(this.#sets > 0, "a page cache holds at least eight pages");
    const memory = new ArrayBuffer(this.#sets * ways * cachePageBytes);
    this.bytes = new Uint8Array(memory);
    this.words = new Uint32Array(memory);
    this.#keys = new Uint32Array(this.#sets * ways);
    this.#oldest = new Uint8Array(this.#sets);
  }

  /** Pages that were read because they were not there. */
  get reads(): number {
    return this.#reads;
  }

  /** Bytes of memory. */
  get memoryBytes(): number {
    return this.bytes.byteLength;
  }

  /** Offset of the page in {@link bytes}; -1 where it is not there. */
  find(key: number): number {
    if (key === this.#lastKey) return this.#lastOffset;
    const first = (key % this.#sets) * ways;
    for (let place = first; place < first + ways; place++) {
      if (this.#keys[place] === key + 1) {
        this.#lastKey = key;
        this.#lastOffset = place * cachePageBytes;
        return this.#lastOffset;
      }
    }
    return -1;
  }

  /**
   * Makes room for a page, lets `fill` read and check it, and returns its offset. If `fill` throws,
   * the room stays free. The page is there until eight others of its set were read.
   */
  read(key: number, fill: (page: Uint8Array) => void): number {
    const set = key % this.#sets;
    const way = this.#oldest[set] as number;
    this.#oldest[set] = (way + 1) % ways;
    const place = set * ways + way;
    const offset = place * cachePageBytes;
    this.#keys[place] = 0;
    this.#lastKey = -1;
    fill(this.bytes.subarray(offset, offset + cachePageBytes));
    this.#keys[place] = key + 1;
    this.#lastKey = key;
    this.#lastOffset = offset;
    this.#reads++;
    return offset;
  }
}
