/** Compares changed pages with their old content and groups what differs into blocks. */
import { isZero } from "#base/bytes.ts";
import { assert } from "#base/assert.ts";
import { idBytes, pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import { checksumBytes, computeChecksumDelta, computeId } from "#vault/hashing.ts";
import { type PageScan, pageStates, type ScanPagesTask } from "#vault/workers/messages.ts";

/** A block of a segment: where its content lies in the segment's buffer. */
export interface Candidate {
  readonly id: Uint8Array;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

interface OpenBlock {
  readonly region: number;
  readonly startPage: number;
  pages: number;
}

/**
 * Scans the pages of a segment.
 *
 * Pages that differ and are not zero are moved together at the front of the buffer, in order, so
 * that each block is contiguous there: a page never moves towards the end, so nothing that is
 * still to be read is overwritten.
 */
export function scanPages(
  task: ScanPagesTask,
  keys: { readonly blockIdKey: Uint8Array; readonly checksumKey: Uint8Array },
): { readonly scan: PageScan; readonly candidates: readonly Candidate[] } {
  const scanner = new PageScanner(task);
  const windows = task.windowStarts.length;
  const deltas = new Uint8Array(windows * checksumBytes);
  const difference = new Uint8Array(windowBytes);
  for (let window = 0; window < windows; window++) {
    const firstPage = scanner.scanWindow(window, difference);
    if (firstPage === undefined) continue;
    const toEnd = difference.subarray(firstPage * pageBytes);
    deltas.set(computeChecksumDelta(keys.checksumKey, firstPage, toEnd), window * checksumBytes);
    toEnd.fill(0);
  }
  return scanner.finish(keys.blockIdKey, deltas);
}

class PageScanner {
  readonly #task: ScanPagesTask;
  readonly #bytes: Uint8Array;
  readonly #states: Uint8Array;
  readonly #blocks: Uint32Array;
  readonly #pageInBlock: Uint8Array;
  readonly #open: OpenBlock[] = [];
  #packedPages = 0;

  constructor(task: ScanPagesTask) {
    const slots = task.pageInWindow.length;
    this.#task = task;
    this.#bytes = new Uint8Array(task.buffer);
    this.#states = new Uint8Array(slots);
    this.#blocks = new Uint32Array(slots);
    this.#pageInBlock = new Uint8Array(slots);
  }

  /** Scans one window; returns its first page that differs, with old XOR new in `difference`. */
  scanWindow(window: number, difference: Uint8Array): number | undefined {
    const { windowStarts, windowRegions, pageInWindow } = this.#task;
    const end = windowStarts[window + 1] ?? pageInWindow.length;
    let first: number | undefined;
    for (let slot = windowStarts[window] ?? 0; slot < end; slot++) {
      const page = pageInWindow[slot] ?? 0;
      assert(page < windowPages, "a window has 64 pages");
      const fresh = this.#bytes.subarray(slot * pageBytes, (slot + 1) * pageBytes);
      const oldAt = this.#task.oldOffsetBytes + slot * pageBytes;
      const old = this.#bytes.subarray(oldAt, oldAt + pageBytes);
      if (Buffer.compare(fresh, old) === 0) continue;
      first ??= page;
      xorInto(difference, page * pageBytes, fresh, old);
      if (isZero(fresh)) this.#states[slot] = pageStates.zero;
      else this.#keep(slot, windowRegions[window] ?? 0);
    }
    return first;
  }

  finish(
    blockIdKey: Uint8Array,
    checksumDeltas: Uint8Array,
  ): { readonly scan: PageScan; readonly candidates: readonly Candidate[] } {
    const blockIds = new Uint8Array(this.#open.length * idBytes);
    const blockBytes = new Uint32Array(this.#open.length);
    const candidates = this.#open.map((block, at) => {
      const offsetBytes = block.startPage * pageBytes;
      const lengthBytes = block.pages * pageBytes;
      const id = computeId(
        blockIdKey,
        this.#bytes.subarray(offsetBytes, offsetBytes + lengthBytes),
      );
      blockIds.set(id, at * idBytes);
      blockBytes[at] = lengthBytes;
      return { id, offsetBytes, lengthBytes };
    });
    const scan: PageScan = {
      kind: "pages-scanned",
      task: this.#task.task,
      states: this.#states,
      blocks: this.#blocks,
      pageInBlock: this.#pageInBlock,
      blockIds,
      blockBytes,
      checksumDeltas,
    };
    return { scan, candidates };
  }

  #keep(slot: number, region: number): void {
    let block = this.#open.at(-1);
    if (block === undefined || block.region !== region || block.pages === windowPages) {
      block = { region, startPage: this.#packedPages, pages: 0 };
      this.#open.push(block);
    }
    this.#states[slot] = pageStates.stored;
    this.#blocks[slot] = this.#open.length - 1;
    this.#pageInBlock[slot] = block.pages++;
    const from = slot * pageBytes;
    this.#bytes.copyWithin(this.#packedPages * pageBytes, from, from + pageBytes);
    this.#packedPages++;
  }
}

function xorInto(target: Uint8Array, at: number, a: Uint8Array, b: Uint8Array): void {
  const words = pageBytes / 4;
  const into = new Int32Array(target.buffer, target.byteOffset + at, words);
  const left = new Int32Array(a.buffer, a.byteOffset, words);
  const right = new Int32Array(b.buffer, b.byteOffset, words);
  for (let word = 0; word < words; word++) into[word] = (left[word] ?? 0) ^ (right[word] ?? 0);
}
