/** Pure operations on extents. */
import { assert } from "#base/assert.ts";
import type { ChangedExtents, Extent, ExtentKind } from "#ports/disk.ts";

/** Grain of extents and of changes: pages of the guest. */
export const EXTENT_ALIGN_BYTES = 4096;

/**
 * Moves the borders of extents, which follow each other from 0 to `sizeBytes`, to multiples of
 * {@link EXTENT_ALIGN_BYTES} and joins neighbours of one kind. A page that holds any data is data.
 */
export async function* alignExtents(
  extents: AsyncIterable<Extent>,
  sizeBytes: number,
): AsyncGenerator<Extent, void, undefined> {
  let seenBytes = 0;
  let toldBytes = 0;
  let data: { start: number; end: number } | undefined;
  function* tell(): Generator<Extent, void> {
    if (data === undefined) return;
    if (data.start > toldBytes) yield toExtent(toldBytes, data.start, "zero");
    yield toExtent(data.start, data.end, "data");
    toldBytes = data.end;
  }
  for await (const { offsetBytes, lengthBytes, kind } of extents) {
    assert(offsetBytes === seenBytes && lengthBytes > 0, "extents follow each other");
    seenBytes += lengthBytes;
    if (kind === "zero") continue;
    const start = alignDown(offsetBytes);
    const end = Math.min(sizeBytes, alignUp(seenBytes));
    if (data !== undefined && start <= data.end) {
      data.end = end;
      continue;
    }
    yield* tell();
    data = { start, end };
  }
  assert(seenBytes === sizeBytes, "extents cover the disk");
  yield* tell();
  if (toldBytes < sizeBytes) yield toExtent(toldBytes, sizeBytes, "zero");
}

/**
 * Collects changed ranges in order into {@link ChangedExtents}: on page borders, neighbours of one
 * kind joined. A page of which only a part was zeroed is data.
 *
 * Never holds more than `extentsMax`: beyond that, changes that lie near each other are joined over
 * the unchanged gap between them, as data. That is true as well (what lies between is read and
 * compares equal), it only costs more.
 */
export class ChangeCollector {
  readonly #sizeBytes: number;
  readonly #extentsMax: number;
  #changes: Change[] = [];
  #gapBytes = EXTENT_ALIGN_BYTES;

  constructor(sizeBytes: number, extentsMax: number) {
    this.#sizeBytes = sizeBytes;
    this.#extentsMax = extentsMax;
  }

  /** Adds a range that lies behind all earlier ones. */
  add(offsetBytes: number, lengthBytes: number, kind: ExtentKind): void {
    const endBytes = offsetBytes + lengthBytes;
    if (kind === "data") {
      this.#push(alignDown(offsetBytes), this.#alignEnd(endBytes), "data");
      return;
    }
    const start = alignUp(offsetBytes);
    const end = endBytes === this.#sizeBytes ? endBytes : alignDown(endBytes);
    if (start >= end) {
      this.#push(alignDown(offsetBytes), this.#alignEnd(endBytes), "data");
      return;
    }
    if (start > offsetBytes) this.#push(alignDown(offsetBytes), start, "data");
    this.#push(start, end, "zero");
    if (end < endBytes) this.#push(end, this.#alignEnd(endBytes), "data");
  }

  finish(): ChangedExtents {
    return this.#changes.map(({ start, end, kind }) => toExtent(start, end, kind));
  }

  #push(start: number, end: number, kind: ExtentKind): void {
    const last = this.#changes.at(-1);
    let from = start;
    if (last !== undefined && start < last.end) {
      assert(last.end - start <= EXTENT_ALIGN_BYTES, "changes come in order");
      // One page that both touch: data wins.
      if (last.kind === "data") from = last.end;
      else last.end = start;
      if (last.end === last.start) this.#changes.pop();
    }
    if (from >= end) return;
    const before = this.#changes.at(-1);
    if (before?.end === from && before.kind === kind) before.end = end;
    else this.#changes.push({ start: from, end, kind });
    if (this.#changes.length > this.#extentsMax) this.#coarsen();
  }

  #coarsen(): void {
    while (this.#changes.length > this.#extentsMax / 2) {
      const joined: Change[] = [];
      for (const change of this.#changes) {
        const last = joined.at(-1);
        if (last !== undefined && change.start - last.end <= this.#gapBytes) {
          last.end = change.end;
          last.kind = "data";
        } else {
          joined.push(change);
        }
      }
      this.#changes = joined;
      this.#gapBytes *= 2;
    }
  }

  #alignEnd(endBytes: number): number {
    return Math.min(this.#sizeBytes, alignUp(endBytes));
  }
}

interface Change {
  start: number;
  end: number;
  kind: ExtentKind;
}

function toExtent(start: number, end: number, kind: ExtentKind): Extent {
  return { offsetBytes: start, lengthBytes: end - start, kind };
}

function alignDown(bytes: number): number {
  return bytes - (bytes % EXTENT_ALIGN_BYTES);
}

function alignUp(bytes: number): number {
  return Math.ceil(bytes / EXTENT_ALIGN_BYTES) * EXTENT_ALIGN_BYTES;
}
