/**
 * Reads pieces of disks: fetches the frames that hold them, opens and checks them in the workers,
 * and copies the pages into place. Frames opened last are kept, since the pages of an increment
 * lie far apart on the disk but together in a frame. Where a frame is wanted as a whole, as those of a
 * full backup are, and the target is memory that the threads share, it is opened right there.
 */
import { allEnded } from "#base/all-ended.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { present } from "#base/assert.ts";
import { fromSerializedError, KluisError } from "#base/kluis-error.ts";
import { Semaphore } from "#base/semaphore.ts";
import { untilAborted } from "#base/until-aborted.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { computeId } from "#vault/hashing.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { framesAheadPerWorker, openBytesMax } from "#vault/limits.ts";
import { FrameCache, type HeldFrame, type OpenedFrame } from "#vault/reader/frame-cache.ts";
import {
  blocksOf,
  joinNeighbours,
  type NeededBlock,
  type NeededFrame,
  rangeOf,
  toFramesToOpen,
} from "#vault/reader/frame-run.ts";
import { frameKeyOf, type Locator, objectNameOf, withCopies } from "#vault/reader/locate.ts";
import { wholePlaceOf } from "#vault/reader/whole-place.ts";
import type { WorkerPool } from "#vault/workers/worker-pool.ts";

/** Pages to be copied from a block. */
export interface BlockPiece {
  readonly block: Uint8Array;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Where they belong in the caller's buffer. */
  readonly targetOffset: number;
}

interface WantedBlock extends NeededBlock {
  /** What is to be copied from it. */
  readonly pieces: BlockPiece[];
}

interface WantedFrame extends NeededFrame {
  readonly key: string;
  readonly blocks: WantedBlock[];
}

/** A frame whose plaintext goes to one place of the target. */
interface WholeFrame extends WantedFrame {
  readonly place: Uint8Array;
}

/** One call of {@link BlockReader.read}. */
interface Read {
  readonly target: Uint8Array;
  /** Tasks that write to the target. */
  readonly writes: Set<Promise<unknown>>;
  /** From then on nothing begins to write to the target. */
  isOver: boolean;
}

/**
 * See the file's head. Calls may overlap, also those of different disks: a frame that they copy from is
 * fetched once for all who want it, so who gives up ends only his own wait.
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
   * Copies pieces into `target`; where a pack fails, from another that has the blocks. When it resolves
   * every block was decrypted and its id checked; when it rejects `target` holds anything, and nothing
   * is written there any more. Errors: BlockMissing, ObjectNotFound, ObjectCorrupt (never), those of
   * the store.
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
    const read: Read = { target, writes: new Set(), isOver: false };
    const { whole, others } = this.#part(await this.#group(pieces), target);
    const copies = this.#hold(others).map(async ({ frame, held }) => {
      try {
        const opened = await held.opened;
        if (!read.isOver) this.#copy(frame, opened, target);
      } finally {
        held.release();
      }
    });
    try {
      await untilAborted(allEnded([...copies, ...this.#openWhole(whole, read)]), signal);
    } finally {
      read.isOver = true;
      await Promise.allSettled(read.writes);
    }
  }

  /** Frames that are opened in the target, and those that come through the cache. */
  #part(
    frames: readonly WantedFrame[],
    target: Uint8Array,
  ): { readonly whole: readonly WholeFrame[]; readonly others: readonly WantedFrame[] } {
    const whole: WholeFrame[] = [];
    const others: WantedFrame[] = [];
    const isShared = target.buffer instanceof SharedArrayBuffer;
    for (const frame of frames) {
      const at = isShared && !this.#cache.has(frame.key) ? wholePlaceOf(frame) : undefined;
      if (at === undefined) others.push(frame);
      else {
        const place = target.subarray(at, at + frame.location.framePlainBytes);
        whole.push({ ...frame, place });
      }
    }
    return { whole, others };
  }

  /** Opens frames in the target; those that lie together come in one get. */
  #openWhole(frames: readonly WholeFrame[], read: Read): readonly Promise<void>[] {
    return joinNeighbours(frames, openBytesMax).map((run) =>
      this.#fetches.run(async () => {
        if (read.isOver) return;
        const fetched = await this.#fetch(run);
        if (read.isOver) return;
        const places = run.map(({ place }) => place);
        const opening = this.#openRun(run, fetched, places);
        read.writes.add(opening);
        const failure = (await opening).find((answer) => answer instanceof Error);
        if (failure !== undefined) throw failure;
      }),
    );
  }

  #copy(frame: WantedFrame, opened: OpenedFrame, target: Uint8Array): void {
    for (const { id, location, pieces } of frame.blocks) {
      this.#check(opened, id, location);
      for (const { offsetBytes, lengthBytes, targetOffset } of pieces) {
        const start = location.offsetBytes + offsetBytes;
        target.set(opened.plain.subarray(start, start + lengthBytes), targetOffset);
      }
    }
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
    for (const block of await this.#locate(pieces)) {
      const { location } = block;
      const key = frameKeyOf(location);
      const frame = frames.get(key) ?? { key, location, blocks: [] };
      frame.blocks.push(block);
      frames.set(key, frame);
    }
    return [...frames.values()];
  }

  /** The blocks of pieces: a block of changed pages has many, and is looked up once. */
  async #locate(pieces: readonly BlockPiece[]): Promise<Iterable<WantedBlock>> {
    const blocks = new Map<string, WantedBlock>();
    for (const piece of pieces) {
      const { block: id, offsetBytes, lengthBytes } = piece;
      const key = toHex(id);
      const known = blocks.get(key);
      const block = known ?? { id, location: await this.#locator.locate(id), pieces: [] };
      if (offsetBytes + lengthBytes > block.location.lengthBytes) {
        throw blockError(id, block.location, "it is shorter than the map says");
      }
      block.pieces.push(piece);
      if (known === undefined) blocks.set(key, block);
    }
    return blocks.values();
  }

  /** Starts to open frames that are not there yet; those that lie together come in one get. */
  #open(frames: readonly WantedFrame[]): void {
    const plainBytesMax = Math.min(openBytesMax, this.#cache.addBytesMax);
    for (const run of joinNeighbours(frames, plainBytesMax)) {
      const bytes = this.#fetches.acquire().then(() => this.#fetch(run));
      // What makes the fetch fail is told to those who hold its frames.
      bytes.catch(() => {});
      const toAdd = run.map(({ key, location }) => ({ key, plainBytes: location.framePlainBytes }));
      const opening = this.#cache.add(toAdd, async (places) =>
        this.#openRun(run, await bytes, places),
      );
      void opening.finally(() => this.#fetches.release());
    }
  }

  async #fetch(run: readonly WantedFrame[]): Promise<Uint8Array> {
    const { location } = present(run[0], "a run has a frame");
    this.#closed.signal.throwIfAborted();
    const get = this.#store.get(objectNameOf(location), rangeOf(run), this.#closed.signal);
    this.#gets.add(get);
    try {
      return await get;
    } finally {
      this.#gets.delete(get);
    }
  }

  /** Opens the frames of a run into their places, as one task of a worker. */
  async #openRun(
    run: readonly WantedFrame[],
    fetched: Uint8Array,
    places: readonly Uint8Array[],
  ): Promise<readonly (Set<number> | Error)[]> {
    const blocks = blocksOf(run);
    const task = toFramesToOpen(run, fetched, { blocks, places });
    const { failures, bad } = await this.#pool.openFrames(task);
    const answers: (Set<number> | Error)[] = run.map(() => new Set<number>());
    for (const { frame, location } of blocks) {
      const checked = answers[frame];
      if (checked instanceof Set) checked.add(location.offsetBytes);
    }
    for (const at of bad) {
      const { frame, id, location } = present(blocks[at], "a bad block was asked for");
      answers[frame] = blockError(id, location, "its content does not match its id");
    }
    for (const { frame, error } of failures) answers[frame] = fromSerializedError(error);
    return answers;
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

function blockError(id: Uint8Array, location: BlockLocation, reason: string): KluisError {
  const block = toHex(id);
  const object = objectNameOf(location);
  return new KluisError("ObjectCorrupt", `Cannot read block "${block}" of "${object}": ${reason}`, {
    details: { block, object },
  });
}
