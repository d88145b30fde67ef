/** A disk that is written again and again, and whose content at any instant can be read. */
import { assert } from "#base/assert.ts";
import { pageBytes } from "#formats/geometry.ts";
import type { ChangedExtents, DiskReader, Extent } from "#ports/disk.ts";
import { fillPage } from "#testing/generated-disk.ts";

const seedStep = 1_000_003;
const writesMax = 255;

/**
 * A disk whose guest writes pages with content of its own. Pages that nobody wrote are those of
 * `below`, which is not disposed here; content is computed from page and time, not kept.
 */
export class WrittenDisk {
  readonly #below: DiskReader;
  /** For each page in which round it was written last; 0 for never. */
  readonly #writtenIn: Uint8Array;
  #rounds = 0;

  constructor(below: DiskReader, pages: number) {
    this.#below = below;
    this.#writtenIn = new Uint8Array(pages);
  }

  /** Writes pages, ascending, in a new round; what changed, as an overlay would tell it. */
  write(pages: readonly number[]): ChangedExtents {
    this.#rounds++;
    assert(this.#rounds <= writesMax, "rounds fit in a byte");
    const extents: Extent[] = [];
    for (const page of pages) {
      this.#writtenIn[page] = this.#rounds;
      const last = extents.at(-1);
      const offsetBytes = page * pageBytes;
      if (last !== undefined && last.offsetBytes + last.lengthBytes === offsetBytes) {
        extents[extents.length - 1] = { ...last, lengthBytes: last.lengthBytes + pageBytes };
      } else {
        extents.push({ offsetBytes, lengthBytes: pageBytes, kind: "data" });
      }
    }
    return extents;
  }

  /** A reader of the disk as it is now, whatever is written later. */
  snapshot(): DiskReader {
    const below = this.#below;
    const writtenIn = this.#writtenIn.slice();
    return {
      sizeBytes: below.sizeBytes,
      readsInFlight: below.readsInFlight,
      read: async (offsetBytes, target, signal) => {
        assert(offsetBytes % pageBytes === 0, "the engine reads whole pages");
        await below.read(offsetBytes, target, signal);
        const first = offsetBytes / pageBytes;
        for (let at = 0; at < target.byteLength; at += pageBytes) {
          const page = first + at / pageBytes;
          const round = writtenIn[page] ?? 0;
          if (round === 0) continue;
          fillPage(round * seedStep, page, scratch);
          target.set(scratch.subarray(0, target.byteLength - at), at);
        }
      },
      extents: (signal) => below.extents(signal),
      assertUnchanged: async () => {
        // Computed from a copy.
      },
      [Symbol.asyncDispose]: async () => {
        // It holds nothing.
      },
    };
  }
}

const scratch = new Uint8Array(pageBytes);
