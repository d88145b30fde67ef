/** A disk at a recovery point, read from the vault: random access by the disk port. */
import { assert } from "#base/assert.ts";
import { assertInsideDisk } from "#base/range.ts";
import { leafWindows, windowBytes } from "#formats/geometry.ts";
import type { DiskReader, Extent } from "#ports/disk.ts";
import type { DiskMap, MapAccess } from "#vault/map/map-source.ts";
import { walkMap } from "#vault/map/walk-map.ts";
import type { BlockPiece, BlockReader } from "#vault/reader/block-reader.ts";
import { planPieces } from "#vault/reader/window-pieces.ts";

/** Reads a disk of a recovery point. Recovery points do not change, so neither does this. */
export class VaultDiskReader implements DiskReader {
  readonly sizeBytes: number;
  readonly readsInFlight = 16;
  readonly #map: DiskMap;
  readonly #access: MapAccess;
  readonly #blocks: BlockReader;
  readonly #dispose: () => Promise<void>;
  readonly #reads = new Set<Promise<void>>();
  #disposed: Promise<void> | undefined;

  /** @param dispose Called once when the reader is disposed. */
  constructor(
    map: DiskMap,
    deps: { readonly access: MapAccess; readonly blocks: BlockReader },
    dispose: () => Promise<void>,
  ) {
    this.sizeBytes = map.sizeBytes;
    this.#map = map;
    this.#access = deps.access;
    this.#blocks = deps.blocks;
    this.#dispose = dispose;
  }

  async read(offsetBytes: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    assert(this.#disposed === undefined, "the reader is open");
    assertInsideDisk(this.sizeBytes, offsetBytes, target.byteLength);
    signal?.throwIfAborted();
    const read = this.#read(offsetBytes, target, signal);
    this.#reads.add(read);
    try {
      await read;
    } finally {
      this.#reads.delete(read);
    }
  }

  async #read(offsetBytes: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    const range = { offsetBytes, lengthBytes: target.byteLength };
    if (target.byteLength === 0) return;
    const firstWindow = Math.floor(offsetBytes / windowBytes);
    const last = Math.floor((offsetBytes + target.byteLength - 1) / windowBytes);
    const pieces: BlockPiece[] = [];
    const windows = { firstWindow, windowCount: last - firstWindow + 1 };
    const walk = { map: this.#map, access: this.#access, range: windows, prefetch: 16, signal };
    for await (const leaf of walkMap(walk)) pieces.push(...planPieces(leaf, range));
    // Pieces never overlap; where they leave nothing out there are no zeros to write.
    const filledBytes = pieces.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    if (filledBytes < target.byteLength) target.fill(0);
    await this.#blocks.read(pieces, target, signal);
  }

  async *extents(signal?: AbortSignal): AsyncGenerator<Extent> {
    assert(this.#disposed === undefined, "the reader is open");
    for await (const range of walkMap({ map: this.#map, access: this.#access, signal })) {
      for (let at = 0; at < range.windowCount;) {
        const isZero = this.#isZero(range, at);
        let count = isZero && range.leaf === undefined ? range.windowCount - at : 1;
        while (at + count < range.windowCount && this.#isZero(range, at + count) === isZero)
          count++;
        const offsetBytes = (range.firstWindow + at) * windowBytes;
        const end = Math.min(offsetBytes + count * windowBytes, this.sizeBytes);
        yield { offsetBytes, lengthBytes: end - offsetBytes, kind: isZero ? "zero" : "data" };
        at += count;
      }
    }
  }

  assertUnchanged(): Promise<void> {
    return Promise.resolve();
  }

  /** Waits for reads that are under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= Promise.allSettled(this.#reads).then(this.#dispose);
    await this.#disposed;
  }

  #isZero(
    range: {
      readonly firstWindow: number;
      readonly leaf: { readonly windows: readonly unknown[] } | undefined;
    },
    at: number,
  ): boolean {
    return range.leaf?.windows[(range.firstWindow + at) % leafWindows] === undefined;
  }
}
