/**
 * Marks what recovery points refer to: a bit for each entry of the index.
 *
 * Nodes are entries too, so every distinct node is read once, whatever the number of points. Nodes are
 * read level by level in the order of their numbers, which is that of their packs: each frame is
 * fetched and opened once a level. Memory: the bits, and the numbers of one level.
 */
import { ByteCache } from "#base/byte-cache.ts";
import { KluisError } from "#base/kluis-error.ts";
import { toHex } from "#base/bytes.ts";
import { idBytes } from "#formats/geometry.ts";
import { listNodeReferences } from "#formats/map-node.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { openFetchedFrame, sealOf } from "#vault/container/container-reader.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { markFramesAhead, nodeCacheBytes } from "#vault/limits.ts";
import { frameKeyOf, objectNameOf } from "#vault/reader/locate.ts";
import { RecentIds } from "./recent-ids.ts";

/** What a marker reads. */
export interface MarkerDeps {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly index: BlockIndex;
  readonly signal?: AbortSignal | undefined;
}

/** Nodes that lie in one frame. */
interface NodeFrame {
  readonly location: BlockLocation;
  readonly nodes: { readonly location: BlockLocation; readonly number: number }[];
}

/** See the file's head. */
export class Marker {
  readonly #deps: MarkerDeps;
  #bits = new Uint8Array(0);
  /** Opened frames: nodes of different levels lie in one. */
  readonly #frames = new ByteCache<Uint8Array>(nodeCacheBytes);
  /** Ids that the walk under way has followed, of those that had to be looked up. */
  #followed = new RecentIds();
  /** The entry that was followed last: blocks of a disk lie one after the other. */
  #last = -2;
  #references = 0;
  #nodes = 0;

  constructor(deps: MarkerDeps) {
    this.#deps = deps;
  }

  /** References to blocks and nodes that were followed, and nodes that were read. */
  get totals(): { readonly references: number; readonly nodes: number } {
    return { references: this.#references, nodes: this.#nodes };
  }

  /** Whether the entry of that number was marked. */
  isMarked(number: number): boolean {
    return (((this.#bits[number >>> 3] ?? 0) >>> (number & 7)) & 1) === 1;
  }

  /** How many of the entries from `first` on were marked. */
  count(first: number, entries: number): number {
    let marked = 0;
    for (let number = first; number < first + entries; number++) {
      if (this.isMarked(number)) marked++;
    }
    return marked;
  }

  /** Takes all marks back. */
  clear(): void {
    this.#bits.fill(0);
  }

  /** Marks an entry; false where it was marked before. */
  mark(number: number): boolean {
    const at = number >>> 3;
    const bit = 1 << (number & 7);
    if (at >= this.#bits.length) this.#grow(at);
    const bits = this.#bits[at] as number;
    this.#bits[at] = bits | bit;
    return (bits & bit) === 0;
  }

  /**
   * Marks all that maps with these roots (24 bytes each) reach. Errors: BlockMissing (never) where the
   * index does not name something; ObjectCorrupt, ObjectNotFound (never) where a node cannot be read.
   */
  async markMaps(roots: readonly Uint8Array[]): Promise<void> {
    this.#followed = new RecentIds();
    let level: number[] = [];
    for (const root of roots) this.#follow(root, 0, level);
    while (level.length > 0) {
      const next: number[] = [];
      const nodes = Float64Array.from(level).sort();
      for (const frames of this.#framesOf(nodes)) {
        const opened = await Promise.all(frames.map((frame) => this.#open(frame)));
        for (const [at, frame] of frames.entries()) {
          this.#readFrame(frame, opened[at] as Uint8Array, next);
        }
      }
      level = next;
    }
  }

  /** Marks what one id names, and notes it as a node to read if it was new. */
  #follow(ids: Uint8Array, at: number, nodes: number[] | undefined): void {
    this.#references++;
    if (this.#followed.has(ids, at)) return;
    const guess = this.#last + 1;
    const number = this.#deps.index.numberOf(ids, at, guess);
    if (number < 0) {
      const block = toHex(ids.subarray(at, at + idBytes));
      throw new KluisError(
        "BlockMissing",
        `Cannot collect: block "${block}" is needed, and no index names it`,
        { details: { block } },
      );
    }
    this.#last = number;
    // What the index finds at once needs no memory beside it.
    if (number !== guess) this.#followed.add(ids, at);
    if (this.mark(number)) nodes?.push(number);
  }

  /** Some frames at a time, each with its nodes. */
  *#framesOf(nodes: Float64Array): Generator<readonly NodeFrame[]> {
    let frames: NodeFrame[] = [];
    for (const number of nodes) {
      const location = this.#deps.index.locationOf(number);
      const last = frames.at(-1);
      // The index gives neighbours one and the same head of their pack.
      const isSame = last?.location.pack === location.pack;
      if (last !== undefined && isSame && last.location.frame === location.frame) {
        last.nodes.push({ location, number });
        continue;
      }
      if (frames.length === markFramesAhead) {
        yield frames;
        frames = [];
      }
      frames.push({ location, nodes: [{ location, number }] });
    }
    if (frames.length > 0) yield frames;
  }

  async #open({ location }: NodeFrame): Promise<Uint8Array> {
    const key = frameKeyOf(location);
    const known = this.#frames.get(key);
    if (known !== undefined) return known;
    const plain = await openFrameAt(location, this.#deps);
    this.#frames.set(key, plain, plain.byteLength);
    return plain;
  }

  #readFrame({ nodes }: NodeFrame, plain: Uint8Array, next: number[]): void {
    for (const { location } of nodes) {
      const start = location.offsetBytes;
      const bytes = plain.subarray(start, start + location.lengthBytes);
      const references = listNodeReferences(bytes);
      const target = references.isLeaf ? undefined : next;
      for (let at = references.offset; at < references.end; at += idBytes) {
        this.#follow(bytes, at, target);
      }
      this.#nodes++;
    }
  }

  #grow(at: number): void {
    const grown = new Uint8Array(Math.max(at + 1, this.#bits.length * 2, 4096));
    grown.set(this.#bits);
    this.#bits = grown;
  }
}

/** The plaintext of the frame that holds a location; fetched and opened. */
export async function openFrameAt(
  location: BlockLocation,
  deps: Pick<MarkerDeps, "store" | "keys" | "signal">,
): Promise<Uint8Array> {
  const { frameOffsetBytes, frameSealedBytes, framePlainBytes, pack } = location;
  const name = objectNameOf(location);
  const range = { offsetBytes: frameOffsetBytes, lengthBytes: frameSealedBytes };
  const bytes = await deps.store.get(name, range, deps.signal);
  const expected = { sealedBytes: frameSealedBytes, plainBytes: framePlainBytes };
  return openFetchedFrame(sealOf(deps.keys, pack), bytes, expected, name);
}
