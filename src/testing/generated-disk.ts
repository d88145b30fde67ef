/** A disk whose content is computed, so that terabytes cost neither memory nor files. */
import { assert } from "#base/assert.ts";
import { assertInsideDisk } from "#base/range.ts";
import type { DiskReader, Extent } from "#ports/disk.ts";
import { mix32 } from "./seed.ts";

const PAGE_BYTES = 4096;
const PAGE_WORDS = PAGE_BYTES / 4;

/** What a generated disk holds. */
export interface GeneratedDiskOptions {
  /** A multiple of 4,096. */
  readonly sizeBytes: number;
  /** Pages of equal seed and number are equal, on every disk. */
  readonly seed: number;
  /** Where data lies, in order, on 4 KiB boundaries; all of the disk without it. */
  readonly data?: readonly { readonly offsetBytes: number; readonly lengthBytes: number }[];
  /** Pages with a seed of their own: what a guest changed. They lie inside `data`. */
  readonly changedPages?: ReadonlyMap<number, number>;
  readonly readsInFlight?: number;
}

/** A reader of incompressible content, the same at every call. Runs at about 1 GB/s. */
export function createGeneratedReader(options: GeneratedDiskOptions): DiskReader {
  const { sizeBytes } = options;
  assert(sizeBytes % PAGE_BYTES === 0, "a generated disk has whole pages");
  const data = options.data ?? [{ offsetBytes: 0, lengthBytes: sizeBytes }];
  const extents = toWholeExtents(sizeBytes, data);
  const page = new Uint8Array(PAGE_BYTES);
  function readPage(index: number): void {
    if (!isData(extents, index * PAGE_BYTES)) page.fill(0);
    else fillPage(options.changedPages?.get(index) ?? options.seed, index, page);
  }
  return {
    sizeBytes,
    readsInFlight: options.readsInFlight ?? 4,
    async read(offsetBytes, target, signal) {
      signal?.throwIfAborted();
      assertInsideDisk(sizeBytes, offsetBytes, target.byteLength);
      let at = 0;
      while (at < target.byteLength) {
        const inPage = (offsetBytes + at) % PAGE_BYTES;
        const partBytes = Math.min(PAGE_BYTES - inPage, target.byteLength - at);
        readPage((offsetBytes + at - inPage) / PAGE_BYTES);
        target.set(page.subarray(inPage, inPage + partBytes), at);
        at += partBytes;
      }
    },
    async *extents(signal) {
      for (const extent of extents) {
        signal?.throwIfAborted();
        yield extent;
      }
    },
    async assertUnchanged() {
      // Computed content cannot change.
    },
    async [Symbol.asyncDispose]() {
      // It holds nothing.
    },
  };
}

/** Fills a page of 4,096 bytes with the content that belongs to `seed` and `pageIndex`. */
export function fillPage(seed: number, pageIndex: number, page: Uint8Array): void {
  assert(page.byteLength === PAGE_BYTES && page.byteOffset % 4 === 0, "a page is whole");
  const words = new Int32Array(page.buffer, page.byteOffset, PAGE_WORDS);
  const high = Math.floor(pageIndex / 2 ** 32);
  let state = mix32(mix32(mix32(seed) ^ high) ^ (pageIndex % 2 ** 32)) | 1;
  for (let at = 0; at < PAGE_WORDS; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[at] = state;
  }
}

function toWholeExtents(
  sizeBytes: number,
  data: readonly { readonly offsetBytes: number; readonly lengthBytes: number }[],
): readonly Extent[] {
  const extents: Extent[] = [];
  let endBytes = 0;
  for (const { offsetBytes, lengthBytes } of data) {
    assert(offsetBytes >= endBytes && lengthBytes > 0, "data extents are in order");
    assert(offsetBytes % PAGE_BYTES === 0 && lengthBytes % PAGE_BYTES === 0, "pages are whole");
    if (offsetBytes > endBytes) {
      extents.push({ offsetBytes: endBytes, lengthBytes: offsetBytes - endBytes, kind: "zero" });
    }
    extents.push({ offsetBytes, lengthBytes, kind: "data" });
    endBytes = offsetBytes + lengthBytes;
  }
  assert(endBytes <= sizeBytes, "data lies inside the disk");
  if (endBytes < sizeBytes) {
    extents.push({ offsetBytes: endBytes, lengthBytes: sizeBytes - endBytes, kind: "zero" });
  }
  return extents;
}

/** Whether the extent that holds `offsetBytes` is data; binary search. */
function isData(extents: readonly Extent[], offsetBytes: number): boolean {
  let low = 0;
  let high = extents.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if ((extents[middle] as Extent).offsetBytes <= offsetBytes) low = middle;
    else high = middle - 1;
  }
  return extents[low]?.kind === "data";
}
