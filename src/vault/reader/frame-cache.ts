/**
 * Opened frames in memory that is used again and again.
 *
 * V8 answers external memory that comes and goes with one collection after the other: a restore
 * that received a new buffer for each frame spent a third of its time there. So frames lie one after
 * the other in units of a memory that the worker threads share and open them into, and the unit that
 * was not used for longest is emptied for others. A frame is held from when it is asked for until its
 * reader has copied from it, and its unit stays as long.
 */
import { assert, present } from "#base/assert.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import { frameCacheBytes } from "#vault/limits.ts";

/** A frame's plaintext; lent while the frame is held. */
export interface OpenedFrame {
  readonly plain: Uint8Array;
  /** Offsets of blocks whose ids were checked. */
  readonly checked: Set<number>;
}

/** A frame that is not taken away before `release` is called, once. */
export interface HeldFrame {
  readonly opened: Promise<OpenedFrame>;
  release(): void;
}

/** A frame that is not there yet. */
export interface FrameToAdd {
  /** Its name in the cache. */
  readonly key: string;
  readonly plainBytes: number;
}

/** A frame in a unit begins at a multiple of this: threads copy words. */
const placeBytes = 64;

interface Unit {
  readonly startBytes: number;
  filledBytes: number;
  readonly keys: string[];
  /** Frames in it that are being opened, and holds of frames in it. */
  users: number;
}

interface Entry {
  readonly opening: PromiseWithResolvers<OpenedFrame>;
  /** Where it lies, from when there is room. */
  unit: Unit | undefined;
  users: number;
}

/** Frames that get room together. */
interface Waiter {
  readonly frames: readonly FrameToAdd[];
  readonly places: Uint8Array[];
  resolve(places: readonly Uint8Array[]): void;
}

/** See the file's head. */
export class FrameCache {
  readonly #unitsMax: number;
  #memory: Uint8Array<SharedArrayBuffer> | undefined;
  readonly #entries = new Map<string, Entry>();
  /** In order of last use. */
  readonly #units = new Set<Unit>();
  #filling: Unit | undefined;
  readonly #waiting: Waiter[] = [];

  /** @param budgetBytes At least one frame; by default `frameCacheBytes`. */
  constructor(budgetBytes: number = frameCacheBytes) {
    assert(budgetBytes >= frameBytesMax, "the largest frame fits the budget");
    this.#unitsMax = Math.floor(budgetBytes / frameBytesMax);
  }

  /**
   * Plaintext of several frames that may be added at once. None of them is taken away while others
   * wait for a place, so all must fit however they fall into units: those begin in a unit that holds
   * other frames, and each two units that they fill hold more than the bytes of one.
   */
  get addBytesMax(): number {
    return Math.floor((this.#unitsMax - 1) / 2) * frameBytesMax;
  }

  /** Whether the frame is open or on its way. */
  has(key: string): boolean {
    return this.#entries.has(key);
  }

  /**
   * Opens frames that are not there yet: one, or several of at most {@link addBytesMax} of plaintext.
   * Resolves when that has ended. An error goes to those who hold its frame, and is forgotten.
   *
   * @param open Fills the frames' places, which are views of shared memory, and answers each frame
   *   with the offsets of its checked blocks or an error; an error of its own is that of all frames.
   */
  async add(
    frames: readonly FrameToAdd[],
    open: (places: readonly Uint8Array[]) => Promise<readonly (Set<number> | Error)[]>,
  ): Promise<void> {
    const entries = frames.map(({ key }) => this.#enter(key));
    const places = await this.#take(frames);
    let answers: readonly (Set<number> | Error)[];
    try {
      answers = await open(places);
    } catch (error) {
      answers = frames.map(() => error as Error);
    }
    for (const [at, entry] of entries.entries()) {
      const answer = present(answers[at], "each frame is answered");
      const plain = present(places[at], "each frame has a place");
      if (answer instanceof Set) entry.opening.resolve({ plain, checked: answer });
      else {
        this.#entries.delete(present(frames[at], "an entry is of a frame").key);
        entry.opening.reject(answer);
      }
      present(entry.unit, "an opened frame has a unit").users--;
    }
    this.#serve();
  }

  /** Holds a frame that is there or on its way until `release` is called, also if it fails. */
  hold(key: string): HeldFrame {
    const entry = present(this.#entries.get(key), "a frame is added before it is held");
    entry.users++;
    if (entry.unit !== undefined) this.#use(entry.unit);
    return {
      opened: entry.opening.promise,
      release: () => {
        entry.users--;
        if (entry.unit === undefined) return;
        entry.unit.users--;
        if (entry.unit.users === 0) this.#serve();
      },
    };
  }

  #enter(key: string): Entry {
    const entry: Entry = { opening: Promise.withResolvers(), unit: undefined, users: 0 };
    // Those who hold it are told.
    entry.opening.promise.catch(() => {});
    this.#entries.set(key, entry);
    return entry;
  }

  #use(unit: Unit): void {
    unit.users++;
    this.#units.delete(unit);
    this.#units.add(unit);
  }

  #take(frames: readonly FrameToAdd[]): Promise<readonly Uint8Array[]> {
    return new Promise((resolve) => {
      this.#waiting.push({ frames, places: [], resolve });
      this.#serve();
    });
  }

  /** Serves in order: fetches are, and one whose turn it is must not wait behind a later one. */
  #serve(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      for (const frame of next.frames.slice(next.places.length)) {
        const place = this.#tryPlace(frame);
        if (place === undefined) return;
        next.places.push(place);
      }
      this.#waiting.shift();
      next.resolve(next.places);
    }
  }

  #tryPlace({ key, plainBytes }: FrameToAdd): Uint8Array | undefined {
    let unit = this.#filling;
    if (unit === undefined || unit.filledBytes + plainBytes > frameBytesMax) {
      unit = this.#takeUnit();
      if (unit === undefined) return undefined;
      this.#filling = unit;
    }
    const entry = present(this.#entries.get(key), "a frame that is opened was entered");
    entry.unit = unit;
    unit.keys.push(key);
    this.#use(unit);
    unit.users += entry.users;
    const at = unit.startBytes + unit.filledBytes;
    unit.filledBytes += Math.ceil(plainBytes / placeBytes) * placeBytes;
    this.#memory ??= new Uint8Array(new SharedArrayBuffer(this.#unitsMax * frameBytesMax));
    return this.#memory.subarray(at, at + plainBytes);
  }

  /** An empty unit: a new one, or that which nobody uses and that was not used for longest. */
  #takeUnit(): Unit | undefined {
    const startBytes = this.#units.size * frameBytesMax;
    if (this.#units.size < this.#unitsMax)
      return { startBytes, filledBytes: 0, keys: [], users: 0 };
    for (const unit of this.#units) {
      if (unit.users > 0) continue;
      for (const key of unit.keys)
        if (this.#entries.get(key)?.unit === unit) this.#entries.delete(key);
      unit.keys.length = 0;
      unit.filledBytes = 0;
      return unit;
    }
    return undefined;
  }
}
