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

  /** Remembers the id at `ids[at]`; whether it was remembered already. */
  note(ids: Uint8Array, at: number): boolean {
    // Ids are keyed hashes, so any of their bits will do.
    const bits =
      ((ids[at] as number) << 16) | ((ids[at + 1] as number) << 8) | (ids[at + 2] as number);
    const slot = bits % slots;
    const start = slot * idBytes;
    const known = this.#ids;
    if (this.#isUsed[slot] === 1) {
      let same = 0;
      while (same < idBytes && known[start + same] === ids[at + same]) same++;
      if (same === idBytes) return true;
    }
    this.#isUsed[slot] = 1;
    for (let byte = 0; byte < idBytes; byte++) known[start + byte] = ids[at + byte] as number;
    return false;
  }
}
