/** A sparse disk in memory, its snapshots, and a reader and a writer of it. */
import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { assertInsideDisk } from "#base/range.ts";
import type { ChangedExtents, DiskReader, DiskWriter, Extent } from "#ports/disk.ts";

/** Grain of allocation and of change tracking. */
export const MEMORY_DISK_PAGE_BYTES = 4096;

/**
 * A disk of which only written pages take memory; 4 TiB of holes cost nothing. Pages are never
 * changed in place, so a snapshot costs one reference per written page.
 */
export class MemoryDisk {
  readonly sizeBytes: number;
  #pages: Map<number, Uint8Array>;
  /** Counts changes, for readers that must notice them. */
  #version = 0;

  constructor(sizeBytes: number, pages: ReadonlyMap<number, Uint8Array> = new Map()) {
    assert(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0, "a size is a natural number");
    assert(sizeBytes % 512 === 0, "a disk has whole sectors");
    this.sizeBytes = sizeBytes;
    this.#pages = new Map(pages);
  }

  get version(): number {
    return this.#version;
  }

  /** Bytes that are allocated. */
  get allocatedBytes(): number {
    return this.#pages.size * MEMORY_DISK_PAGE_BYTES;
  }

  /** Copies `bytes` to `offsetBytes`. */
  write(offsetBytes: number, bytes: Uint8Array): void {
    assertInsideDisk(this.sizeBytes, offsetBytes, bytes.byteLength);
    this.#version += 1;
    for (const part of pageParts(offsetBytes, bytes.byteLength)) {
      const page = new Uint8Array(MEMORY_DISK_PAGE_BYTES);
      const before = this.#pages.get(part.page);
      if (before !== undefined) page.set(before);
      page.set(bytes.subarray(part.at, part.at + part.lengthBytes), part.inPage);
      this.#pages.set(part.page, page);
    }
  }

  /** Makes the range read as zeros; whole pages are freed. */
  zero(offsetBytes: number, lengthBytes: number): void {
    assertInsideDisk(this.sizeBytes, offsetBytes, lengthBytes);
    this.#version += 1;
    const firstWhole = Math.ceil(offsetBytes / MEMORY_DISK_PAGE_BYTES);
    const endWhole = this.#wholePagesEnd(offsetBytes + lengthBytes);
    if (endWhole <= firstWhole) {
      this.#zeroBytes(offsetBytes, lengthBytes);
      return;
    }
    const headBytes = firstWhole * MEMORY_DISK_PAGE_BYTES - offsetBytes;
    this.#zeroBytes(offsetBytes, headBytes);
    const tailAt = Math.min(endWhole * MEMORY_DISK_PAGE_BYTES, offsetBytes + lengthBytes);
    this.#zeroBytes(tailAt, offsetBytes + lengthBytes - tailAt);
    if (endWhole - firstWhole < this.#pages.size) {
      for (let page = firstWhole; page < endWhole; page++) this.#pages.delete(page);
      return;
    }
    for (const page of this.#pages.keys()) {
      if (page >= firstWhole && page < endWhole) this.#pages.delete(page);
    }
  }

  /** Fills `target` from `offsetBytes`. */
  read(offsetBytes: number, target: Uint8Array): void {
    assertInsideDisk(this.sizeBytes, offsetBytes, target.byteLength);
    for (const part of pageParts(offsetBytes, target.byteLength)) {
      const page = this.#pages.get(part.page);
      if (page === undefined) target.fill(0, part.at, part.at + part.lengthBytes);
      else target.set(page.subarray(part.inPage, part.inPage + part.lengthBytes), part.at);
    }
  }

  /** The whole content; only for small disks. */
  bytes(): Uint8Array {
    const whole = new Uint8Array(this.sizeBytes);
    this.read(0, whole);
    return whole;
  }

  /** A disk of the same content at this instant, which later writes do not touch. */
  snapshot(): MemoryDisk {
    return new MemoryDisk(this.sizeBytes, this.#pages);
  }

  /** A snapshot of another size: cut, or with zeros behind. */
  resized(sizeBytes: number): MemoryDisk {
    const disk = new MemoryDisk(Math.max(sizeBytes, this.sizeBytes), this.#pages);
    if (sizeBytes < disk.sizeBytes) disk.zero(sizeBytes, disk.sizeBytes - sizeBytes);
    return new MemoryDisk(sizeBytes, disk.#pages);
  }

  /**
   * What was written or zeroed since `base`, a {@link snapshot} of this disk of the same size.
   * Pages written with what they held count as changed, as on a real overlay.
   */
  changesSince(base: MemoryDisk): ChangedExtents {
    assert(base.sizeBytes === this.sizeBytes, "changes are between snapshots of one size");
    const changed: number[] = [];
    for (const [page, bytes] of this.#pages)
      if (base.#pages.get(page) !== bytes) changed.push(page);
    for (const page of base.#pages.keys()) if (!this.#pages.has(page)) changed.push(page);
    return this.#toExtents(changed.toSorted((a, b) => a - b));
  }

  /** All extents, from 0 to the end: written pages are data, the rest is zero. */
  extents(): readonly Extent[] {
    const whole: Extent[] = [];
    let endBytes = 0;
    for (const extent of this.#toExtents([...this.#pages.keys()].toSorted((a, b) => a - b))) {
      if (extent.offsetBytes > endBytes) whole.push(zeroExtent(endBytes, extent.offsetBytes));
      whole.push(extent);
      endBytes = extent.offsetBytes + extent.lengthBytes;
    }
    if (endBytes < this.sizeBytes) whole.push(zeroExtent(endBytes, this.sizeBytes));
    return whole;
  }

  #toExtents(sortedPages: readonly number[]): Extent[] {
    const extents: Extent[] = [];
    for (const page of sortedPages) {
      const offsetBytes = page * MEMORY_DISK_PAGE_BYTES;
      const lengthBytes = Math.min(MEMORY_DISK_PAGE_BYTES, this.sizeBytes - offsetBytes);
      const kind = this.#pages.has(page) ? "data" : "zero";
      const last = extents.at(-1);
      const joins = last?.kind === kind && last.offsetBytes + last.lengthBytes === offsetBytes;
      if (last !== undefined && joins) {
        extents[extents.length - 1] = { ...last, lengthBytes: last.lengthBytes + lengthBytes };
      } else {
        extents.push({ offsetBytes, lengthBytes, kind });
      }
    }
    return extents;
  }

  /** The page after the last one that ends at or before `endBytes`; the last page may be short. */
  #wholePagesEnd(endBytes: number): number {
    const pages = endBytes / MEMORY_DISK_PAGE_BYTES;
    return endBytes === this.sizeBytes ? Math.ceil(pages) : Math.floor(pages);
  }

  #zeroBytes(offsetBytes: number, lengthBytes: number): void {
    for (const part of pageParts(offsetBytes, lengthBytes)) {
      const before = this.#pages.get(part.page);
      if (before === undefined) continue;
      const page = new Uint8Array(before);
      page.fill(0, part.inPage, part.inPage + part.lengthBytes);
      this.#pages.set(part.page, page);
    }
  }
}

/** How a {@link createMemoryReader} behaves. */
export interface MemoryReaderOptions {
  readonly readsInFlight?: number;
  /** Called before each read; may throw what the disk shall fail with, or wait. */
  readonly onRead?: (offsetBytes: number, lengthBytes: number) => Promise<void> | void;
}

/** A reader of `disk`, which notices writes to it. */
export function createMemoryReader(
  disk: MemoryDisk,
  options: MemoryReaderOptions = {},
): DiskReader {
  const openedVersion = disk.version;
  let open = true;
  return {
    sizeBytes: disk.sizeBytes,
    readsInFlight: options.readsInFlight ?? 4,
    async read(offsetBytes, target, signal) {
      assert(open, "the reader is open");
      assertInsideDisk(disk.sizeBytes, offsetBytes, target.byteLength);
      signal?.throwIfAborted();
      await options.onRead?.(offsetBytes, target.byteLength);
      signal?.throwIfAborted();
      assert(open, "the reader is open");
      disk.read(offsetBytes, target);
    },
    async *extents(signal) {
      assert(open, "the reader is open");
      for (const extent of disk.extents()) {
        signal?.throwIfAborted();
        yield extent;
      }
    },
    async assertUnchanged() {
      if (disk.version === openedVersion) return;
      throw new KluisError("ImageChangedDuringRead", "Cannot trust the disk: it was written");
    },
    async [Symbol.asyncDispose]() {
      open = false;
    },
  };
}

/** A restore target in memory. */
export interface MemoryTarget {
  readonly writer: DiskWriter;
  /** What was committed; `undefined` before, and for ever where the writer was disposed first. */
  committed(): MemoryDisk | undefined;
}

/** How a {@link createMemoryTarget} behaves. */
export interface MemoryTargetOptions {
  /** Called before each write and zero; may throw what the target shall fail with, or wait. */
  readonly onWrite?: (offsetBytes: number, lengthBytes: number) => Promise<void> | void;
}

/** A fresh target of `sizeBytes`, all zeros. */
export function createMemoryTarget(
  sizeBytes: number,
  options: MemoryTargetOptions = {},
): MemoryTarget {
  const disk = new MemoryDisk(sizeBytes);
  let state: "open" | "committed" | "disposed" = "open";
  async function change(
    range: { readonly offsetBytes: number; readonly lengthBytes: number },
    signal: AbortSignal | undefined,
    apply: () => void,
  ): Promise<void> {
    assert(state === "open", "the writer is open");
    assertInsideDisk(sizeBytes, range.offsetBytes, range.lengthBytes);
    signal?.throwIfAborted();
    await options.onWrite?.(range.offsetBytes, range.lengthBytes);
    signal?.throwIfAborted();
    apply();
  }
  return {
    writer: {
      sizeBytes,
      write: (offsetBytes, bytes, signal) =>
        change({ offsetBytes, lengthBytes: bytes.byteLength }, signal, () => {
          disk.write(offsetBytes, bytes);
        }),
      zero: (offsetBytes, lengthBytes, signal) =>
        change({ offsetBytes, lengthBytes }, signal, () => {
          disk.zero(offsetBytes, lengthBytes);
        }),
      async commit(signal) {
        assert(state === "open", "the writer is open");
        signal?.throwIfAborted();
        state = "committed";
      },
      async [Symbol.asyncDispose]() {
        if (state === "open") state = "disposed";
      },
    },
    committed: () => (state === "committed" ? disk : undefined),
  };
}

/** The part of one page that a range covers; `at` counts from the start of the range. */
interface PagePart {
  readonly page: number;
  readonly inPage: number;
  readonly at: number;
  readonly lengthBytes: number;
}

function* pageParts(offsetBytes: number, lengthBytes: number): Generator<PagePart, void> {
  let at = 0;
  while (at < lengthBytes) {
    const inPage = (offsetBytes + at) % MEMORY_DISK_PAGE_BYTES;
    const partBytes = Math.min(MEMORY_DISK_PAGE_BYTES - inPage, lengthBytes - at);
    const page = (offsetBytes + at - inPage) / MEMORY_DISK_PAGE_BYTES;
    yield { page, inPage, at, lengthBytes: partBytes };
    at += partBytes;
  }
}

function zeroExtent(startBytes: number, endBytes: number): Extent {
  return { offsetBytes: startBytes, lengthBytes: endBytes - startBytes, kind: "zero" };
}
