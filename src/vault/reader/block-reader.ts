/**
 * Reads pieces of disks: fetches the frames that hold them, opens and checks them in the workers,
 * and copies the pages into place. Frames opened last are kept, since the pages of an increment
 * lie far apart on the disk but together in a frame. Where the target is memory that the threads share,
 * they copy what they open, and only those frames are kept that go on behind the target.
 */
import { allEnded } from "#base/all-ended.ts";
import { asBuffer, bytesEqual, toHex } from "#base/bytes.ts";
import { present } from "#base/assert.ts";
import { fromSerializedError, KluisError } from "#base/kluis-error.ts";
import { Semaphore } from "#base/semaphore.ts";
import { untilAborted } from "#base/until-aborted.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { computeId } from "#vault/hashing.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { toIdName } from "#vault/map/map-source.ts";
import { framesAheadPerWorker, openBytesMax } from "#vault/limits.ts";
import { FrameCache, type HeldFrame, type OpenedFrame } from "#vault/reader/frame-cache.ts";
import {
  blocksOf,
  joinNeighbours,
  type NeededBlock,
  type NeededFrame,
  type NeededPiece,
  rangeOf,
  toFramesToOpen,
} from "#vault/reader/frame-run.ts";
import { frameKeyOf, type Locator, objectNameOf, withCopies } from "#vault/reader/locate.ts";
import { goesOn } from "#vault/reader/goes-on.ts";
import type { WorkerPool } from "#vault/workers/worker-pool.ts";

/** Pages to be copied from a block to their place in the caller's buffer. */
export interface BlockPiece extends NeededPiece {
  readonly block: Uint8Array;
}

interface WantedBlock extends NeededBlock {
  readonly pieces: BlockPiece[];
}

interface WantedFrame extends NeededFrame {
  readonly key: string;
  readonly blocks: WantedBlock[];
}

/** What became of a frame: offsets of its checked blocks. */
type Answer = Set<number> | Error;

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
    const isShared = target.buffer instanceof SharedArrayBuffer;
    const frames = await this.#group(pieces);
    const missing = frames.filter(({ key }) => !this.#cache.has(key));
    // Held before room is made for others.
    const held = frames.filter(({ key }) => this.#cache.has(key)).map((frame) => this.#hold(frame));
    const opening = isShared ? this.#openInto(missing, read) : [];
    if (!isShared) {
      this.#open(missing);
      held.push(...missing.map((frame) => this.#hold(frame)));
    }
    const copies = held.map(async ({ frame, hold }) => {
      try {
        const opened = await hold.opened;
        if (!read.isOver) this.#copy(frame, opened, target);
      } finally {
        hold.release();
      }
    });
    try {
      await untilAborted(allEnded([...copies, ...opening]), signal);
    } finally {
      read.isOver = true;
      await Promise.allSettled(read.writes);
    }
  }

  #hold(frame: WantedFrame): { readonly frame: WantedFrame; readonly hold: HeldFrame } {
    return { frame, hold: this.#cache.hold(frame.key) };
  }

  #copy(frame: WantedFrame, opened: OpenedFrame, target: Uint8Array): void {
    const [from, to] = [asBuffer(opened.plain), asBuffer(target)];
    for (const { id, location, pieces } of frame.blocks) {
      this.#check(opened, id, location);
      for (const { offsetBytes, lengthBytes, targetOffset } of pieces) {
        const start = location.offsetBytes + offsetBytes;
        from.copy(to, targetOffset, start, start + lengthBytes);
      }
    }
  }

  /** Ends the fetches that nobody waits for any more; none goes on behind it. No read may be under way. */
  async close(): Promise<void> {
    this.#closed.abort(new KluisError("Cancelled", "Cannot fetch a frame: its reader was closed"));
    await Promise.allSettled(this.#gets);
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
    // Pieces of one leaf name a block by the same view.
    const byView = new Map<Uint8Array, WantedBlock>();
    for (const piece of pieces) {
      const { block: id, offsetBytes, lengthBytes } = piece;
      let block = byView.get(id);
      if (block === undefined) {
        const key = toIdName(id);
        block = blocks.get(key);
        if (block === undefined) {
          block = { id, location: await this.#locator.locate(id), pieces: [] };
          blocks.set(key, block);
        }
        byView.set(id, block);
      }
      if (offsetBytes + lengthBytes > block.location.lengthBytes) {
        throw blockError(id, block.location, "it is shorter than the map says");
      }
      block.pieces.push(piece);
    }
    return blocks.values();
  }

  /** Starts to open frames that are all kept; what fails is told to those who hold them. */
  #open(frames: readonly WantedFrame[]): void {
    const plainBytesMax = Math.min(openBytesMax, this.#cache.addBytesMax);
    for (const run of joinNeighbours(frames, plainBytesMax)) {
      void this.#openTogether(run, run, undefined);
    }
  }

  /** Opens frames and lets the threads copy what is wanted of them; see {@link goesOn} for those that are kept. */
  #openInto(frames: readonly WantedFrame[], read: Read): readonly Promise<void>[] {
    const plainBytesMax = Math.min(openBytesMax, this.#cache.addBytesMax);
    return joinNeighbours(frames, plainBytesMax).map(async (run) => {
      const kept = run.filter((frame) => goesOn(frame, read.target.byteLength));
      const failure = (await this.#openTogether(run, kept, read)).find(
        (answer) => answer instanceof Error,
      );
      if (failure !== undefined) throw failure;
    });
  }

  /**
   * Fetches a run with one get and opens it; resolves with what became of each frame, of none where nobody
   * wants them any more. Does not reject.
   *
   * @param kept Those of its frames that go to the cache, where they are on their way when this returns.
   * @param read Whose target is written by the threads.
   */
  async #openTogether(
    run: readonly WantedFrame[],
    kept: readonly WantedFrame[],
    read: Read | undefined,
  ): Promise<readonly Answer[]> {
    const isWanted = (): boolean => kept.length > 0 || read?.isOver !== true;
    const bytes = this.#fetches.acquire().then(() => (isWanted() ? this.#fetch(run) : undefined));
    // What makes the fetch fail is told below.
    bytes.catch(() => {});
    const toAdd = kept.map(({ key, location }) => ({ key, plainBytes: location.framePlainBytes }));
    let answers: readonly Answer[] = [];
    await this.#cache.add(toAdd, async (places) => {
      try {
        const fetched = await bytes;
        if (fetched !== undefined && isWanted()) {
          const placed = new Map(kept.map((frame, at) => [frame, places[at]]));
          answers = await this.#openRun(run, fetched, { placed, read });
        }
      } catch (error) {
        answers = run.map(() => error as Error);
      }
      return answers.filter((_, at) => kept.includes(present(run[at], "a frame has an answer")));
    });
    this.#fetches.release();
    return answers;
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

  /** Opens the frames of a run as one task of a worker. */
  async #openRun(
    run: readonly WantedFrame[],
    fetched: Uint8Array,
    to: {
      readonly placed: ReadonlyMap<WantedFrame, Uint8Array | undefined>;
      readonly read: Read | undefined;
    },
  ): Promise<readonly Answer[]> {
    const blocks = blocksOf(run);
    const places = run.map((frame) => to.placed.get(frame));
    const target = to.read?.isOver === false ? to.read.target : undefined;
    const opening = this.#pool.openFrames(toFramesToOpen(run, fetched, { blocks, places, target }));
    to.read?.writes.add(opening);
    const { failures, bad } = await opening;
    const answers: Answer[] = run.map(() => new Set<number>());
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
