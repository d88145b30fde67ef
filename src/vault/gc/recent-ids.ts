/** Remembers ids that came of late. */
import { idBytes } from "#formats/geometry.ts";

/** Ids that are remembered at most: those of some 30 GiB of a disk. They take 3 MiB. */
const slots = 128 * 1024;

/**
 * A set of ids that forgets: each has one place, by its first bits, and drives out what was there. The
 * maps of points that follow each other name the same blocks again and again.
 */
export class RecentIds {
  readonly #ids = new Uint8Array(slots * idBytes);
  readonly #isUsed = new Uint8Array(slots);

  /** Whether the id at `ids[at]` is remembered. */
  has(ids: Uint8Array, at: number): boolean {
    const slot = slotOf(ids, at);
    if (this.#isUsed[slot] === 0) return false;
    const start = slot * idBytes;
    for (let byte = 0; byte < idBytes; byte++) {
      if (this.#ids[start + byte] !== ids[at + byte]) return false;
    }
    return true;
  }

  /** Remembers the id at `ids[at]`. */
  add(ids: Uint8Array, at: number): void {
    const slot = slotOf(ids, at);
    const start = slot * idBytes;
    this.#isUsed[slot] = 1;
    for (let byte = 0; byte < idBytes; byte++) this.#ids[start + byte] = ids[at + byte] as number;
  }
}

/** Ids are keyed hashes, so any of their bits will do. */
function slotOf(ids: Uint8Array, at: number): number {
  const high = ((ids[at] as number) << 16) | ((ids[at + 1] as number) << 8);
  return (high | (ids[at + 2] as number)) % slots;
}
