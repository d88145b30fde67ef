/** Copies what is needed out of packs that go: frames are opened, blocks checked and sealed anew. */
import { bytesEqual, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { frameBytesMax, windowBytes } from "#formats/geometry.ts";
import { computeId } from "#vault/hashing.ts";
import type { BlockLocation, PackExtent } from "#vault/index/entry-reader.ts";
import { flushLimits, packEntriesMax, pageFrameBytesMax } from "#vault/limits.ts";
import { type FrameBlock, PackBuilder } from "#vault/pack/pack-builder.ts";
import { frameKeyOf } from "#vault/reader/locate.ts";
import { PackSink } from "#vault/writer/pack-sink.ts";
import { type Marker, type MarkerDeps, openFrameAt } from "./marker.ts";

/** See the file's head. */
export class CopyOut {
  readonly totals = { blocks: 0, bytes: 0 };
  readonly #deps: MarkerDeps & { readonly salts: RandomSource; readonly marker: Marker };
  readonly #extents: PackExtent[] = [];
  readonly #failure = new AbortController();

  constructor(deps: MarkerDeps & { readonly salts: RandomSource; readonly marker: Marker }) {
    this.#deps = deps;
  }

  /** Notes a pack that goes. */
  note(extent: PackExtent): void {
    this.#extents.push(extent);
  }

  /**
   * Gives every marked block of the noted packs a copy that may be built on, unless it has one: packs,
   * then index segments. Memory: one pack of each type. Errors: ObjectCorrupt, ObjectNotFound (never)
   * where a block cannot be read; those of the store.
   */
  async run(): Promise<void> {
    const { signal } = this.#deps;
    const failure = this.#failure.signal;
    const sink = new PackSink({
      ...this.#deps,
      random: this.#deps.salts,
      entriesMax: flushLimits.entries,
      signal: signal === undefined ? failure : AbortSignal.any([signal, failure]),
      onError: (error) => this.#failure.abort(error),
      onIndexed: () => {},
    });
    try {
      for (const type of ["pack", "mapPack"] as const) await this.#copyAll(type, sink);
      await sink.drain();
      await sink.writeSegment();
      await sink.writeInventory();
    } finally {
      await sink.settle();
    }
  }

  async #copyAll(type: "pack" | "mapPack", sink: PackSink): Promise<void> {
    const target = new CopyTarget(type, this.#deps, (builder) => {
      sink.accept({ ...builder.finish(), release: () => {} });
    });
    let frame: { key: string; plain: Uint8Array } | undefined;
    for (const extent of this.#extents) {
      if (extent.head.type !== type) continue;
      for (let at = 0; at < extent.entries; at++) {
        const number = extent.firstNumber + at;
        if (!this.#deps.marker.isMarked(number)) continue;
        const id = this.#deps.index.idOf(number);
        if (this.#hasCopy(id) || target.holds(id)) continue;
        const location = this.#deps.index.locationOf(number);
        const key = frameKeyOf(location);
        if (frame?.key !== key) {
          frame = { key, plain: await openFrameAt(location, this.#deps) };
        }
        target.add(id, this.#blockIn(frame.plain, id, location));
        this.totals.blocks++;
      }
      if (sink.isSegmentDue) await sink.writeSegment();
      else await sink.drain();
    }
    target.finish();
    this.totals.bytes += target.sealedBytes;
    await sink.drain();
    await sink.writeSegment();
  }

  /** Whether another copy may be built on; its entry is marked then. */
  #hasCopy(id: Uint8Array): boolean {
    const { index, marker } = this.#deps;
    if (!index.has(id)) return false;
    marker.mark(index.numberOf(id, 0));
    return true;
  }

  #blockIn(plain: Uint8Array, id: Uint8Array, location: BlockLocation): Uint8Array {
    const { keys } = this.#deps;
    const { offsetBytes, lengthBytes, pack } = location;
    const content = plain.subarray(offsetBytes, offsetBytes + lengthBytes);
    const key = pack.type === "pack" ? keys.blockIdKey : keys.nodeIdKey;
    if (bytesEqual(computeId(key, content), id)) return content;
    const block = toHex(id);
    const message = `Cannot copy block "${block}": its content does not match its id`;
    throw new KluisError("ObjectCorrupt", message, { details: { block } });
  }
}

/** Cuts copied blocks into frames and packs. */
class CopyTarget {
  sealedBytes = 0;
  readonly #type: "pack" | "mapPack";
  readonly #open: () => PackBuilder;
  readonly #close: (builder: PackBuilder) => void;
  readonly #frame = new Uint8Array(frameBytesMax);
  /** Ids of what no index segment names yet. */
  readonly #waiting = new Set<string>();
  #builder: PackBuilder | undefined;
  #blocks: FrameBlock[] = [];
  #length = 0;
  #packBlocks = 0;

  constructor(
    type: "pack" | "mapPack",
    deps: MarkerDeps & { readonly salts: RandomSource },
    close: (builder: PackBuilder) => void,
  ) {
    this.#type = type;
    this.#open = () => new PackBuilder({ type, keys: deps.keys, random: deps.salts, verify: true });
    this.#close = close;
  }

  holds(id: Uint8Array): boolean {
    return this.#waiting.has(toHex(id));
  }

  /** Takes a block; copied. */
  add(id: Uint8Array, content: Uint8Array): void {
    // As the writer cuts them: pages of an increment lie far apart on the disk.
    const isPages = this.#type === "pack" && content.byteLength < windowBytes;
    const frameMax = isPages ? pageFrameBytesMax : frameBytesMax;
    if (this.#length + content.byteLength > frameMax) this.#seal();
    this.#frame.set(content, this.#length);
    const lengthBytes = content.byteLength;
    this.#blocks.push({ id, offsetBytes: this.#length, lengthBytes });
    this.#length += lengthBytes;
    this.#waiting.add(toHex(id));
  }

  finish(): void {
    this.#seal();
    this.#end();
  }

  #seal(): void {
    if (this.#blocks.length === 0) return;
    this.#builder ??= this.#open();
    this.#builder.add(this.#frame.subarray(0, this.#length), this.#blocks, { compress: true });
    this.#packBlocks += this.#blocks.length;
    this.#blocks = [];
    this.#length = 0;
    if (this.#builder.isFull || this.#packBlocks >= packEntriesMax) this.#end();
  }

  #end(): void {
    if (this.#builder === undefined) return;
    this.sealedBytes += this.#builder.sizeBytes;
    this.#close(this.#builder);
    this.#builder = undefined;
    this.#packBlocks = 0;
  }
}
