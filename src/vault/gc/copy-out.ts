/**
 * Copies what is needed out of packs that go. A frame that is needed as a whole is sealed anew as it is;
 * of others the blocks that are needed go into new frames. Either way each new frame is opened again
 * and its blocks compared with their ids.
 */
import { inOrder } from "#base/in-order.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { freeBuffer } from "#base/free-buffer.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { Clock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import { openFetchedFrame, parseFetchedHeader, sealOf } from "#vault/container/container-reader.ts";
import type { ContainerSeal } from "#vault/container/frame.ts";
import { computeId } from "#vault/hashing.ts";
import type { BlockLocation, PackExtent } from "#vault/index/entry-reader.ts";
import type { StoredObject } from "#vault/inventory/inventory.ts";
import { copyFetchesAhead, fetchBytesMax, flushLimits } from "#vault/limits.ts";
import type { FrameBlock } from "#vault/pack/pack-builder.ts";
import { objectNameOf } from "#vault/reader/locate.ts";
import { PackSink } from "#vault/writer/pack-sink.ts";
import { CopyTarget, createCopyBuffers } from "./copy-target.ts";
import type { Marker, MarkerDeps } from "./marker.ts";

/** What copying takes. */
export interface CopyOutDeps extends MarkerDeps {
  readonly salts: RandomSource;
  readonly clock: Clock;
  readonly marker: Marker;
}

/** A frame, and what is needed of it. */
interface NeededFrame {
  readonly location: BlockLocation;
  readonly blocks: FrameBlock[];
  neededBytes: number;
}

/** Frames of one pack that lie side by side, and what opens them. */
interface FrameRange {
  readonly frames: readonly NeededFrame[];
  readonly seal: ContainerSeal;
}

/** See the file's head. */
export class CopyOut {
  readonly totals = { blocks: 0, bytes: 0 };
  readonly #deps: CopyOutDeps;
  readonly #extents: PackExtent[] = [];
  readonly #buffers = createCopyBuffers();
  readonly #failure = new AbortController();
  readonly #signal: AbortSignal;

  constructor(deps: CopyOutDeps) {
    const failure = this.#failure.signal;
    this.#deps = deps;
    this.#signal = deps.signal === undefined ? failure : AbortSignal.any([deps.signal, failure]);
  }

  /** Notes a pack that goes. */
  note(extent: PackExtent): void {
    this.#extents.push(extent);
  }

  /**
   * Gives every marked block of the noted packs a copy that may be built on, unless it has one: packs,
   * then index segments. While the last packs are put `meanwhile` runs; the inventory names what it put, too.
   * Memory: two packs and what is fetched ahead. Errors: ObjectCorrupt, ObjectNotFound (never) where a
   * block cannot be read; those of the store and of `meanwhile`.
   */
  async run(meanwhile: () => Promise<readonly StoredObject[]>): Promise<void> {
    const sink = new PackSink({
      ...this.#deps,
      random: this.#deps.salts,
      entriesMax: flushLimits.entries,
      signal: this.#signal,
      onError: (error) => this.#failure.abort(error),
      onIndexed: () => {},
    });
    try {
      // Nothing refers to the copies before the collection has decided, so one segment may name both kinds.
      for (const type of ["pack", "mapPack"] as const) await this.#copyAll(type, sink);
      const put = await meanwhile();
      await sink.drain();
      await sink.writeSegment();
      await sink.writeInventory(put);
    } finally {
      await sink.settle();
    }
  }

  async #copyAll(type: "pack" | "mapPack", sink: PackSink): Promise<void> {
    const target = new CopyTarget(type, {
      ...this.#deps,
      buffers: this.#buffers,
      onPack: (pack) => sink.accept(pack),
      signal: this.#signal,
    });
    const ranges = this.#rangesOf(type, target);
    const fetched = inOrder(ranges, copyFetchesAhead, async (range) => {
      return { range, bytes: await this.#fetch(range) };
    });
    for await (const { range, bytes } of fetched) {
      let start = 0;
      for (const frame of range.frames) {
        const end = start + frame.location.frameSealedBytes;
        await this.#copy(frame, { seal: range.seal, bytes: bytes.subarray(start, end) }, target);
        start = end;
      }
      freeBuffer(bytes);
      if (sink.isSegmentDue) await sink.writeSegment();
    }
    await target.finish();
    this.totals.bytes += target.sealedBytes;
  }

  /** What is to be fetched at once. */
  *#rangesOf(type: "pack" | "mapPack", target: CopyTarget): Generator<FrameRange> {
    for (const extent of this.#extents) {
      if (extent.head.type !== type) continue;
      const needed = this.#framesOf(extent, target);
      if (needed.length === 0) continue;
      // Once for a pack: deriving a key takes longer than opening a small frame.
      const seal = sealOf(this.#deps.keys, extent.head);
      let frames: NeededFrame[] = [];
      let endBytes = 0;
      let startBytes = 0;
      for (const frame of needed) {
        const { frameOffsetBytes, frameSealedBytes } = frame.location;
        const frameEnd = frameOffsetBytes + frameSealedBytes;
        if (frameOffsetBytes !== endBytes || frameEnd - startBytes > fetchBytesMax) {
          if (frames.length > 0) yield { frames, seal };
          frames = [];
          startBytes = frameOffsetBytes;
        }
        frames.push(frame);
        endBytes = frameEnd;
      }
      if (frames.length > 0) yield { frames, seal };
    }
  }

  /** The frames of a pack of which something is to be copied, in their order. */
  #framesOf(extent: PackExtent, target: CopyTarget): readonly NeededFrame[] {
    const { index, marker } = this.#deps;
    const frames = new Map<number, NeededFrame>();
    for (let at = 0; at < extent.entries; at++) {
      const number = extent.firstNumber + at;
      if (!marker.isMarked(number)) continue;
      const id = index.idOf(number);
      if (this.#hasCopy(id) || !target.claim(id)) continue;
      const location = index.locationOf(number);
      const { offsetBytes, lengthBytes } = location;
      const frame = frames.get(location.frame) ?? { location, blocks: [], neededBytes: 0 };
      frames.set(location.frame, frame);
      frame.blocks.push({ id, offsetBytes, lengthBytes });
      frame.neededBytes += lengthBytes;
      this.totals.blocks++;
    }
    return [...frames.values()].sort(
      (a, b) => a.location.frameOffsetBytes - b.location.frameOffsetBytes,
    );
  }

  /** Whether another copy may be built on; its entry is marked then. */
  #hasCopy(id: Uint8Array): boolean {
    const { index, marker } = this.#deps;
    if (!index.has(id)) return false;
    marker.mark(index.numberOf(id, 0));
    return true;
  }

  async #fetch({ frames }: FrameRange): Promise<Uint8Array> {
    const [first] = frames;
    if (first === undefined) return new Uint8Array();
    const offsetBytes = first.location.frameOffsetBytes;
    const lengthBytes = frames.reduce((sum, { location }) => sum + location.frameSealedBytes, 0);
    const name = objectNameOf(first.location);
    return await this.#deps.store.get(name, { offsetBytes, lengthBytes }, this.#signal);
  }

  async #copy(
    frame: NeededFrame,
    { seal, bytes }: { readonly seal: ContainerSeal; readonly bytes: Uint8Array },
    target: CopyTarget,
  ): Promise<void> {
    const { location, blocks } = frame;
    const { pack, frameSealedBytes: sealedBytes, framePlainBytes: plainBytes } = location;
    const objectName = objectNameOf(location);
    const expected = { sealedBytes, plainBytes };
    if (frame.neededBytes === plainBytes) {
      const header = parseFetchedHeader(bytes, expected, objectName);
      await target.addFrame({ seal, header, bytes, objectName }, blocks);
      return;
    }
    const plain = openFetchedFrame(seal, bytes, expected, objectName);
    for (const block of blocks) await target.add(block.id, this.#blockIn(plain, block, pack.type));
    freeBuffer(plain);
  }

  #blockIn(plain: Uint8Array, block: FrameBlock, type: "pack" | "mapPack"): Uint8Array {
    const { keys } = this.#deps;
    const { id, offsetBytes, lengthBytes } = block;
    const content = plain.subarray(offsetBytes, offsetBytes + lengthBytes);
    const key = type === "pack" ? keys.blockIdKey : keys.nodeIdKey;
    if (bytesEqual(computeId(key, content), id)) return content;
    const message = `Cannot copy block "${toHex(id)}": its content does not match its id`;
    throw new KluisError("ObjectCorrupt", message, { details: { block: toHex(id) } });
  }
}
