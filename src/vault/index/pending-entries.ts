/**
 * Entries of packs that are durable but in no index segment yet: seen by this process alone, and
 * bounded, because the writer puts a segment every 64 Ki entries.
 */
import { assert, present } from "#base/assert.ts";
import { toHex } from "#base/bytes.ts";
import { containerHeaderBytes } from "#formats/container.ts";
import { idBytes } from "#formats/geometry.ts";
import { type IndexPack, type IndexPackColumns, toIndexColumns } from "#formats/index-segment.ts";
import type { BlockLocation } from "./entry-reader.ts";

/** Most entries that may wait: a whole buffer of map nodes of the least size. */
export const pendingEntriesMax = 2 ** 20;

const slotsMin = 1024;

/** A table of open addressing over the packs' own arrays; at most half full. */
export class PendingEntries {
  #packs: IndexPackColumns[] = [];
  /** First number of each pack. */
  #firsts: number[] = [];
  #count = 0;
  /** Entry number plus one; 0 where free. */
  #slots = new Uint32Array(slotsMin);

  /** Entries. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of memory. */
  get memoryBytes(): number {
    return this.#slots.byteLength + this.#count * (idBytes + 12);
  }

  /** Adds the entries of a pack that is durable. */
  add(pack: IndexPack): void {
    this.#insert(toIndexColumns(pack));
  }

  /** Forgets packs, which are in a segment now. */
  remove(packs: readonly { readonly name: Uint8Array }[]): void {
    if (this.#count === 0) return;
    const names = new Set(packs.map((pack) => toHex(pack.name)));
    const left = this.#packs.filter((pack) => !names.has(toHex(pack.name)));
    if (left.length === this.#packs.length) return;
    this.#packs = [];
    this.#firsts = [];
    this.#count = 0;
    this.#slots = new Uint32Array(slotsMin);
    for (const pack of left) this.#insert(pack);
  }

  /** Number of the entry with the id at `ids[at]`, or -1. */
  find(ids: Uint8Array, at: number): number {
    if (this.#count === 0) return -1;
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let slot = hashOf(ids, at) & mask; ; slot = (slot + 1) & mask) {
      const number = (slots[slot] as number) - 1;
      if (number < 0) return -1;
      const { pack, entry } = this.#entry(number);
      if (isSameId(pack.ids, entry * idBytes, ids, at)) return number;
    }
  }

  /** Where an entry lies. */
  locationOf(number: number): BlockLocation {
    const { pack, entry } = this.#entry(number);
    const frame = pack.entryFrames[entry] as number;
    let frameOffsetBytes = containerHeaderBytes;
    for (let at = 0; at < frame; at++) frameOffsetBytes += pack.sealedBytes[at] as number;
    const { type, name, salt, epoch } = pack;
    return {
      pack: { type, name, salt, epoch },
      frame,
      frameOffsetBytes,
      frameSealedBytes: pack.sealedBytes[frame] as number,
      framePlainBytes: pack.plainBytes[frame] as number,
      codec: pack.codecs[frame] === 0 ? "stored" : "zstd",
      offsetBytes: pack.offsetsBytes[entry] as number,
      lengthBytes: pack.lengthsBytes[entry] as number,
    };
  }

  #insert(pack: IndexPackColumns): void {
    const count = this.#count + pack.entryCount;
    assert(count <= pendingEntriesMax, "a writer puts segments before too many entries wait");
    this.#packs.push(pack);
    this.#firsts.push(this.#count);
    if (count * 2 > this.#slots.length) this.#growFor(count);
    for (let entry = 0; entry < pack.entryCount; entry++) {
      this.#enter(pack.ids, entry * idBytes, this.#count + entry);
    }
    this.#count = count;
  }

  #growFor(count: number): void {
    let slots = this.#slots.length;
    while (slots < count * 2) slots *= 2;
    this.#slots = new Uint32Array(slots);
    for (let number = 0; number < this.#count; number++) {
      const { pack, entry } = this.#entry(number);
      this.#enter(pack.ids, entry * idBytes, number);
    }
  }

  #enter(ids: Uint8Array, at: number, number: number): void {
    const mask = this.#slots.length - 1;
    let slot = hashOf(ids, at) & mask;
    while (this.#slots[slot] !== 0) slot = (slot + 1) & mask;
    this.#slots[slot] = number + 1;
  }

  #entry(number: number): { readonly pack: IndexPackColumns; readonly entry: number } {
    let low = 0;
    let high = this.#firsts.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((this.#firsts[middle] as number) <= number) low = middle;
      else high = middle;
    }
    const pack = present(this.#packs[low], "the pack of a pending entry");
    return { pack, entry: number - (this.#firsts[low] as number) };
  }
}

/** Ids are keyed hashes: any of their bits will do. Others than those of the big table's partition. */
function hashOf(ids: Uint8Array, at: number): number {
  return (
    (ids[at + 8] as number) |
    ((ids[at + 9] as number) << 8) |
    ((ids[at + 10] as number) << 16) |
    ((ids[at + 11] as number) << 24)
  );
}

function isSameId(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number): boolean {
  for (let byte = 0; byte < idBytes; byte++) {
    if (a[aAt + byte] !== b[bAt + byte]) return false;
  }
  return true;
}
