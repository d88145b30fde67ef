/**
 * One partition of the {@link IdTable}: the entries whose hash starts with the same `depth` bits,
 * sorted by hash, in 5 bytes each.
 *
 * Of a hash of 36 bits, `depth` bits name the partition and 8 the bucket in it; the other
 * 28 - depth bits are stored, beside 12 + depth bits of entry number: 40 bits at any depth. So the
 * whole hash of an entry is known from its place, and a split never has to read the id again.
 *
 * A chunk of memory holds the starts of 16 groups of buckets, the sizes of 256 buckets, and for
 * each entry 32 bits (the lower stored bits above the number) and a tag (the upper 8).
 */
import { assert } from "#base/assert.ts";
import type { ChunkOwner, PartitionMemory } from "./partition-memory.ts";

/** Bits of an id that the table knows. */
export const hashBits = 36;
/** Deepest partition: entry numbers have 12 + 19 = 31 bits there. */
export const depthMax = 19;
/** A partition splits when it holds so many. */
export const partitionEntriesMax = 3072;
/** More entries than that a partition never holds, even at the greatest depth. */
export const partitionCountMax = 0xffff;

const bucketBits = 8;
const bucketCount = 2 ** bucketBits;
const groupBuckets = 16;
const groupCount = bucketCount / groupBuckets;
const numberBitsAtDepth0 = 12;
const tagBits = 8;
const lowBits = hashBits - 32;
/** Bytes of the group starts and bucket sizes. */
const headBytes = (groupCount + bucketCount) * 2;
/** Capacity grows by steps of so many entries. */
const capacityStep = 96;
/** So many entries of one hash are taken on trust; see {@link IdPartition.insert}. */
const sameHashMax = 1024;

/** Sorted entries of one prefix. Only {@link IdTable} uses it; numbers are checked there. */
export class IdPartition implements ChunkOwner {
  chunkBytes = 0;
  chunkPlace = 0;
  readonly depth: number;
  readonly #memory: PartitionMemory;
  readonly #numberBits: number;
  readonly #numberMask: number;
  #count = 0;
  #head = noHead;
  #rests = noRests;
  #tags = noTags;

  constructor(memory: PartitionMemory, depth: number, capacity: number) {
    assert(depth >= 0 && depth <= depthMax, "a partition's depth is in bounds");
    this.depth = depth;
    this.#memory = memory;
    this.#numberBits = numberBitsAtDepth0 + depth;
    this.#numberMask = 2 ** this.#numberBits - 1;
    memory.allocate(this, chunkBytesFor(capacity));
    this.#head.fill(0);
  }

  /** Entries. */
  get count(): number {
    return this.#count;
  }

  /** Entry numbers of this depth are below this. */
  get numberLimit(): number {
    return 2 ** this.#numberBits;
  }

  /** {@link ChunkOwner.attach}. */
  attach(slab: ArrayBuffer, offset: number): void {
    const capacity = (this.chunkBytes - headBytes) / 5;
    this.#head = new Uint16Array(slab, offset, headBytes / 2);
    this.#rests = new Uint32Array(slab, offset + headBytes, capacity);
    this.#tags = new Uint8Array(slab, offset + headBytes + capacity * 4, capacity);
  }

  /** The place of the first entry from place `from` on that has this hash, or -1. */
  find(high: number, low: number, from: number): number {
    const { depth } = this;
    const tags = this.#tags;
    const rests = this.#rests;
    const numberBits = this.#numberBits;
    const bucket = (high << depth) >>> (32 - bucketBits);
    const start = this.#startOf(bucket);
    const end = start + (this.#head[groupCount + bucket] as number);
    const stored = storedBits(depth, high, low);
    const tag = stored >>> (32 - tagBits);
    const restHash = (stored << tagBits) >>> numberBits;
    for (let at = from < start ? start : from; at < end; at++) {
      if (tags[at] === tag && (rests[at] as number) >>> numberBits === restHash) return at;
    }
    return -1;
  }

  /** The number of the entry at a place. */
  numberAt(place: number): number {
    return (this.#rests[place] as number) & this.#numberMask;
  }

  /**
   * Enters `number`, which is below {@link numberLimit}. False, with nothing entered, where 1,024
   * entries have that very hash and `force` is false: then the id is most likely one of theirs.
   */
  insert(high: number, low: number, number: number, force: boolean): boolean {
    const { depth } = this;
    const bucket = (high << depth) >>> (32 - bucketBits);
    const stored = storedBits(depth, high, low);
    const tag = stored >>> (32 - tagBits);
    const rest = (((stored << tagBits) >>> this.#numberBits) << this.#numberBits) | number;
    const start = this.#startOf(bucket);
    const at = this.#placeFor(start, bucket, tag, rest >>> 0);
    if (!force && at - start >= sameHashMax && this.#hasHash(at - sameHashMax, tag, rest)) {
      return false;
    }
    this.#open(bucket, at);
    this.#tags[at] = tag;
    this.#rests[at] = rest;
    return true;
  }

  /** Replaces this by two partitions, one deeper. */
  split(): [IdPartition, IdPartition] {
    const depth = this.depth + 1;
    const middle = this.#startOf(bucketCount / 2);
    const left = new IdPartition(this.#memory, depth, middle);
    const right = new IdPartition(this.#memory, depth, this.#count - middle);
    let from = 0;
    for (let bucket = 0; bucket < bucketCount; bucket++) {
      const end = from + (this.#head[groupCount + bucket] as number);
      this.#moveBucket(from, end, bucket < bucketCount / 2 ? left : right, bucket);
      from = end;
    }
    this.#memory.release(this);
    return [left, right];
  }

  /** All of the partition for a snapshot, as views that hold until the next change. */
  snapshot(): readonly Uint8Array[] {
    return this.#views(this.#count);
  }

  /** Fills an empty partition from a snapshot; false where it contradicts itself. */
  restore(count: number, read: (target: Uint8Array) => void): boolean {
    assert(this.#count === 0 && count <= this.#tags.length, "an empty partition of that capacity");
    for (const part of this.#views(count)) read(part);
    let start = 0;
    for (let bucket = 0; bucket < bucketCount; bucket++) {
      if (bucket % groupBuckets === 0 && this.#head[bucket / groupBuckets] !== start) return false;
      start += this.#head[groupCount + bucket] as number;
    }
    this.#count = count;
    return start === count;
  }

  #views(count: number): Uint8Array[] {
    const tags = this.#tags.subarray(0, count);
    return [bytesOf(this.#head), bytesOf(this.#rests.subarray(0, count)), tags];
  }

  #startOf(bucket: number): number {
    const head = this.#head;
    let start = head[bucket >>> 4] as number;
    const end = groupCount + bucket;
    for (let at = end - (bucket & 15); at < end; at++) start += head[at] as number;
    return start;
  }

  #placeFor(start: number, bucket: number, tag: number, rest: number): number {
    const tags = this.#tags;
    const rests = this.#rests;
    const end = start + (this.#head[groupCount + bucket] as number);
    let at = start;
    while (at < end) {
      const other = tags[at] as number;
      if (other > tag || (other === tag && (rests[at] as number) >= rest)) break;
      at++;
    }
    return at;
  }

  #hasHash(place: number, tag: number, rest: number): boolean {
    const other = this.#rests[place] as number;
    return this.#tags[place] === tag && (other ^ rest) >>> this.#numberBits === 0;
  }

  #open(bucket: number, at: number): void {
    const count = this.#count;
    assert(count < partitionCountMax, "a partition splits long before it overflows");
    if (count === this.#tags.length) this.#grow();
    if (at < count) {
      this.#tags.copyWithin(at + 1, at, count);
      this.#rests.copyWithin(at + 1, at, count);
    }
    const head = this.#head;
    head[groupCount + bucket] = (head[groupCount + bucket] as number) + 1;
    for (let group = (bucket >>> 4) + 1; group < groupCount; group++) {
      head[group] = (head[group] as number) + 1;
    }
    this.#count = count + 1;
  }

  #grow(): void {
    const oldCapacity = this.#tags.length;
    const tags = this.#tags;
    // The tags of a larger chunk lie further on; they are read from where they were.
    const copy = tags.slice(0, this.#count);
    this.#memory.resize(this, chunkBytesFor(oldCapacity + 1));
    this.#tags.set(copy);
  }

  #moveBucket(from: number, end: number, half: IdPartition, bucket: number): void {
    const lower = (2 * bucket) % bucketCount;
    const shift = this.#numberBits;
    const restBits = 32 - shift;
    let place = half.#count;
    if (lower % groupBuckets === 0) half.#head[lower / groupBuckets] = place;
    for (let at = from; at < end; at++) {
      const tag = this.#tags[at] as number;
      const rest = this.#rests[at] as number;
      const restHash = rest >>> shift;
      const target = groupCount + lower + (tag >>> (tagBits - 1));
      half.#head[target] = (half.#head[target] as number) + 1;
      half.#tags[place] = (tag << 1) | (restHash >>> (restBits - 1));
      const kept = restHash & (2 ** (restBits - 1) - 1);
      half.#rests[place] = (kept << (shift + 1)) | (rest & this.#numberMask);
      place++;
    }
    half.#count = place;
  }
}

const noHead = new Uint16Array(0);
const noRests = new Uint32Array(0);
const noTags = new Uint8Array(0);

/** The stored bits of a hash, from the highest bit of the word on. */
function storedBits(depth: number, high: number, low: number): number {
  return (high << (depth + bucketBits)) | (low << (depth + bucketBits - lowBits));
}

function chunkBytesFor(capacity: number): number {
  const steps = Math.max(1, Math.ceil(capacity / capacityStep));
  return headBytes + steps * capacityStep * 5;
}

function bytesOf(view: Uint16Array | Uint32Array): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
