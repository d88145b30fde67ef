/**
 * Opened frames in buffers that are used again and again.
 *
 * V8 answers external memory that comes and goes with one collection after the other: a restore
 * that received a new buffer for each frame spent a third of its time there. So buffers are lent
 * from a fixed budget, travel to a worker and back, and are taken from the frame that was not used
 * for longest. A frame is held from when it is asked for until its reader has copied from it.
 */
import { assert, present } from "#base/assert.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import { frameCacheBytes, pageFrameBytesMax } from "#vault/limits.ts";

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

interface Waiter {
  readonly bufferBytes: number;
  resolve(buffer: ArrayBuffer): void;
}

interface Entry {
  readonly opening: Promise<OpenedFrame>;
  readonly bufferBytes: number;
  opened: OpenedFrame | undefined;
  users: number;
}

/** See the file's head. */
export class FrameCache {
  readonly #budgetBytes: number;
  /** In order of last use. */
  readonly #entries = new Map<string, Entry>();
  #madeBytes = 0;
  readonly #waiting: Waiter[] = [];

  /** @param budgetBytes At least one frame; by default `frameCacheBytes`. */
  constructor(budgetBytes: number = frameCacheBytes) {
    assert(budgetBytes >= frameBytesMax, "the largest frame fits the budget");
    this.#budgetBytes = budgetBytes;
  }

  /** Whether the frame is open or on its way. */
  has(key: string): boolean {
    return this.#entries.has(key);
  }

  /**
   * Opens a frame that is not there yet. An error goes to those who hold it, and it is forgotten.
   *
   * @param open Fills the buffer, which it may send away and bring back as that of `plain`.
   */
  add(
    key: string,
    plainBytes: number,
    open: (buffer: ArrayBuffer) => Promise<OpenedFrame>,
  ): Promise<void> {
    const bufferBytes = plainBytes <= pageFrameBytesMax ? pageFrameBytesMax : frameBytesMax;
    const opening = this.#take(bufferBytes).then(open);
    const entry: Entry = { opening, bufferBytes, opened: undefined, users: 0 };
    this.#entries.set(key, entry);
    return opening.then(
      (opened) => {
        entry.opened = opened;
        this.#serve();
      },
      () => {
        // The worker kept the buffer; another may be made in its place.
        this.#entries.delete(key);
        this.#madeBytes -= bufferBytes;
        this.#serve();
      },
    );
  }

  /** Holds a frame that is there or on its way until `release` is called, also if it fails. */
  hold(key: string): HeldFrame {
    const entry = present(this.#entries.get(key), "a frame is added before it is held");
    entry.users++;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return {
      opened: entry.opening,
      release: () => {
        entry.users--;
        if (entry.users === 0) this.#serve();
      },
    };
  }

  #take(bufferBytes: number): Promise<ArrayBuffer> {
    return new Promise((resolve) => {
      this.#waiting.push({ bufferBytes, resolve });
      this.#serve();
    });
  }

  /** Serves in order: fetches are, and one whose turn it is must not wait behind a later one. */
  #serve(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const buffer = this.#tryTake(next.bufferBytes);
      if (buffer === undefined) return;
      this.#waiting.shift();
      next.resolve(buffer);
    }
  }

  #tryTake(bufferBytes: number): ArrayBuffer | undefined {
    while (this.#madeBytes + bufferBytes > this.#budgetBytes) {
      const evicted = this.#evict();
      if (evicted === undefined) return undefined;
      if (evicted.byteLength === bufferBytes) return evicted;
      this.#madeBytes -= evicted.byteLength;
    }
    this.#madeBytes += bufferBytes;
    return new ArrayBuffer(bufferBytes);
  }

  /** Forgets the frame that was not used for longest and is not held; returns its buffer. */
  #evict(): ArrayBuffer | undefined {
    for (const [key, { opened, users }] of this.#entries) {
      if (opened === undefined || users > 0) continue;
      this.#entries.delete(key);
      return opened.plain.buffer as ArrayBuffer;
    }
    return undefined;
  }
}
