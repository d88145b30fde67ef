/**
 * Reads pieces of disks: fetches the frames that hold them, opens and checks them in the workers,
 * and copies the pages into place. Frames opened last are kept, since the pages of an increment
 * lie far apart on the disk but together in a frame.
 */
import { allEnded } from "#base/all-ended.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { present } from "#base/assert.ts";
import { freeBuffer } from "#base/free-buffer.ts";
import { KluisError } from "#base/kluis-error.ts";
import { Semaphore } from "#base/semaphore.ts";
import { untilAborted } from "#base/until-aborted.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { computeId } from "#vault/hashing.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { fetchBytesMax, framesAheadPerWorker } from "#vault/limits.ts";
import { FrameCache, type HeldFrame, type OpenedFrame } from "#vault/reader/frame-cache.ts";
import { frameKeyOf, type Locator, objectNameOf, withCopies } from "#vault/reader/locate.ts";
import type { WorkerPool } from "#vault/workers/worker-pool.ts";

/** Pages to be copied from a block. */
export interface BlockPiece {
  readonly block: Uint8Array;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Where they belong in the caller's buffer. */
  readonly targetOffset: number;
}

interface WantedFrame {
  readonly key: string;
  readonly location: BlockLocation;
  readonly pieces: { readonly piece: BlockPiece; readonly location: BlockLocation }[];
}

/**
 * See the file's head. Calls may overlap, also those of different disks: a frame is fetched once
 * for all who want it, so who gives up ends only his own wait.
 */
export class BlockReader {
  readonly #store: ObjectStore;
  readonly #keys: VaultKeys;
  readonly #locator: Locator;
  readonly #pool: WorkerPool;
  /** Held from before a fetch until its frames are opened, which bounds what is in memory. */
  readonly #fetches: Semaphore;
  readonly #gets = new Set<Promise<unknown>>();
  readonly #closed = new AbortController();
  readonly #cache: FrameCache;

  /** @param deps.cacheBytes For opened frames; `frameCacheBytes` unless told otherwise. */
  constructor(deps: {
    readonly store: ObjectStore;
    readonly keys: VaultKeys;
    readonly locator: Locator;
    readonly pool: WorkerPool;
    readonly workers: number;
    readonly cacheBytes?: number;
  }) {
    this.#store = deps.store;
    this.#keys = deps.keys;
    this.#locator = deps.locator;
    this.#pool = deps.pool;
    this.#cache = new FrameCache(deps.cacheBytes);
    this.#fetches = new Semaphore(deps.workers * framesAheadPerWorker);
  }

  /**
   * Copies pieces into `target`; where a pack fails, from another that has the blocks. Every block
   * was decrypted and its id checked before a byte of it is copied; when it rejects nothing is
   * written into `target` any more. Errors: BlockMissing, ObjectNotFound, ObjectCorrupt (never),
   * those of the store.
   */
  async read(
    pieces: readonly BlockPiece[],
    target: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    await withCopies(this.#locator, () => this.#read(pieces, target, signal));
  }

  async #read(
    pieces: readonly BlockPiece[],
    target: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    signal?.throwIfAborted();
    const frames = await this.#group(pieces);
    const copies = this.#hold(frames).map(async ({ frame, held }) => {
      try {
        const opened = await untilAborted(held.opened, signal);
        for (const { piece, location } of frame.pieces) {
          this.#check(opened, piece.block, location);
          const start = location.offsetBytes + piece.offsetBytes;
          target.set(opened.plain.subarray(start, start + piece.lengthBytes), piece.targetOffset);
        }
      } finally {
        held.release();
      }
    });
    await allEnded(copies);
  }

  /** Ends the fetches that nobody waits for any more; none goes on behind it. No read may be under way. */
  async close(): Promise<void> {
    this.#closed.abort(new KluisError("Cancelled", "Cannot fetch a frame: its reader was closed"));
    await Promise.allSettled(this.#gets);
  }

  /** Holds what is there before room is made for the rest, and starts to open that. */
  #hold(frames: readonly WantedFrame[]): { frame: WantedFrame; held: HeldFrame }[] {
    const hold = (frame: WantedFrame): { frame: WantedFrame; held: HeldFrame } => ({
      frame,
      held: this.#cache.hold(frame.key),
    });
    const missing = frames.filter(({ key }) => !this.#cache.has(key));
    const there = frames.filter(({ key }) => this.#cache.has(key)).map(hold);
    this.#open(missing);
    return [...there, ...missing.map(hold)];
  }

  async #group(pieces: readonly BlockPiece[]): Promise<readonly WantedFrame[]> {
    const frames = new Map<string, WantedFrame>();
    for (const piece of pieces) {
      const location = await this.#locator.locate(piece.block);
      if (piece.offsetBytes + piece.lengthBytes > location.lengthBytes) {
        throw blockError(piece.block, location, "it is shorter than the map says");
      }
      const key = frameKeyOf(location);
      const frame = frames.get(key) ?? { key, location, pieces: [] };
      frame.pieces.push({ piece, location });
      frames.set(key, frame);
    }
    return [...frames.values()];
  }

  /** Starts to open frames that are not there yet; those that lie together come in one get. */
  #open(frames: readonly WantedFrame[]): void {
    for (const run of joinNeighbours(frames)) {
      const bytes = this.#fetches.acquire().then(() => this.#fetch(run));
      let at = 0;
      const openings = run.map((frame) => {
        const start = at;
        at += frame.location.frameSealedBytes;
        const end = at;
        return this.#cache.add(frame.key, frame.location.framePlainBytes, async (buffer) =>
          this.#openOne(frame, new Uint8Array((await bytes).subarray(start, end)), buffer),
        );
      });
      const end = async (): Promise<void> => {
        await Promise.all(openings);
        this.#fetches.release();
        freeBuffer(await bytes);
      };
      // What makes the fetch fail is told to those who hold its frames.
      end().catch(() => {});
    }
  }

  async #fetch(run: readonly WantedFrame[]): Promise<Uint8Array> {
    const first = present(run[0], "a run has a frame").location;
    const last = present(run.at(-1), "a run has a frame").location;
    const end = last.frameOffsetBytes + last.frameSealedBytes;
    const offsetBytes = first.frameOffsetBytes;
    const range = { offsetBytes, lengthBytes: end - offsetBytes };
    this.#closed.signal.throwIfAborted();
    const get = this.#store.get(objectNameOf(first), range, this.#closed.signal);
    this.#gets.add(get);
    try {
      return await get;
    } finally {
      this.#gets.delete(get);
    }
  }

  async #openOne(
    frame: WantedFrame,
    bytes: Uint8Array<ArrayBuffer>,
    target: ArrayBuffer,
  ): Promise<OpenedFrame> {
    const { location } = frame;
    const checked = new Set<number>();
    const blocks = [];
    for (const { piece, location: at } of frame.pieces) {
      if (checked.has(at.offsetBytes)) continue;
      checked.add(at.offsetBytes);
      // Copied: a message takes the whole buffer that a view lies in along, here that of a map frame.
      const id = new Uint8Array(piece.block);
      blocks.push({ id, offsetBytes: at.offsetBytes, lengthBytes: at.lengthBytes });
    }
    const { plain, bad } = await this.#pool.openFrame({
      buffer: bytes.buffer,
      target,
      sealedBytes: location.frameSealedBytes,
      plainBytes: location.framePlainBytes,
      epoch: location.pack.epoch,
      salt: new Uint8Array(location.pack.salt),
      packName: objectNameOf(location),
      blocks,
    });
    const first = bad[0];
    if (first !== undefined) {
      const block = present(blocks[first], "a bad block was asked for");
      throw blockError(block.id, location, "its content does not match its id");
    }
    return { plain, checked };
  }

  #check(frame: OpenedFrame, id: Uint8Array, location: BlockLocation): void {
    if (frame.checked.has(location.offsetBytes)) return;
    const end = location.offsetBytes + location.lengthBytes;
    const content = frame.plain.subarray(location.offsetBytes, end);
    if (!bytesEqual(computeId(this.#keys.blockIdKey, content), id)) {
      throw blockError(id, location, "its content does not match its id");
    }
    frame.checked.add(location.offsetBytes);
  }
}

function joinNeighbours(frames: readonly WantedFrame[]): readonly (readonly WantedFrame[])[] {
  const sorted = frames.toSorted((a, b) => {
    const order = Buffer.compare(a.location.pack.name, b.location.pack.name);
    return order === 0 ? a.location.frameOffsetBytes - b.location.frameOffsetBytes : order;
  });
  const runs: WantedFrame[][] = [];
  let end = 0;
  let bytes = 0;
  for (const frame of sorted) {
    const { frameOffsetBytes, frameSealedBytes } = frame.location;
    const run = runs.at(-1);
    const isNext =
      run !== undefined &&
      frameOffsetBytes === end &&
      bytes + frameSealedBytes <= fetchBytesMax &&
      bytesEqual(present(run[0], "a run has a frame").location.pack.name, frame.location.pack.name);
    if (isNext) run.push(frame);
    else runs.push([frame]);
    bytes = (isNext ? bytes : 0) + frameSealedBytes;
    end = frameOffsetBytes + frameSealedBytes;
  }
  return runs;
}

function blockError(id: Uint8Array, location: BlockLocation, reason: string): KluisError {
  const block = toHex(id);
  const object = objectNameOf(location);
  return new KluisError("ObjectCorrupt", `Cannot read block "${block}" of "${object}": ${reason}`, {
    details: { block, object },
  });
}
