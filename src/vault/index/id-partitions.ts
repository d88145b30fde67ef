/**
 * The partitions of the {@link IdTable}. Each holds the entries whose hash starts with the same
 * `depth` bits, sorted by hash, in 5 bytes each.
 *
 * Of a hash of 36 bits, `depth` bits name the partition and 8 the bucket in it; the other
 * 28 - depth bits are stored, beside 12 + depth bits of entry number: 40 bits at any depth. So the
 * whole hash of an entry is known from its place, and a split never has to read the id again.
 *
 * A chunk of memory holds 16 groups of 16 buckets (words of 2 bytes: where the group starts, then
 * the sizes of its first 15 buckets), for each entry a word of 4 bytes (the lower stored bits above
 * the number), and for each entry a tag (the upper 8 stored bits). So a miss touches two lines of
 * memory and a hit three.
 */
import { assert } from "#base/assert.ts";
import { PartitionMemory } from "./partition-memory.ts";

/** Deepest partition: entry numbers have 12 + 19 = 31 bits there. */
export const depthMax = 19;
/** A partition splits when it holds so many. */
export const partitionEntriesMax = 3072;
/** More entries than that a partition never holds, even at the greatest depth. */
export const partitionCountMax = 0xffff;

/** The 36 bits of an id that the table knows: its first 32 and the next 4. */
export interface IdHash {
  high: number;
  low: number;
}

const lowBits = 4;
const bucketBits = 8;
const bucketCount = 2 ** bucketBits;
const groupBuckets = 16;
const tagBits = 8;
const numberBitsAtDepth0 = 12;
/** Bytes of the groups. */
const headBytes = bucketCount * 2;
/** Capacity grows by steps of so many entries: 480 bytes. */
const capacityStep = 96;
/** So many entries of one hash are taken on trust; see {@link IdPartitions.insert}. */
const sameHashMax = 1024;
const partitionsMin = 64;

/** Partitions by number. Only {@link IdTable} uses them: it finds and splits them. */
export class IdPartitions {
  readonly #memory = new PartitionMemory();
  #scratch = new Uint8Array(chunkBytesFor(partitionEntriesMax));
  #length = 0;
  #depths = new Uint8Array(partitionsMin);
  #counts = new Uint16Array(partitionsMin);
  #capacities = new Uint32Array(partitionsMin);

  /** Partitions. */
  get length(): number {
    return this.#length;
  }

  /** Bytes of memory. */
  get memoryBytes(): number {
    return this.#memory.memoryBytes + this.#depths.length * 7 + this.#scratch.length;
  }

  /** Makes an empty partition, and returns its number: 0, 1, 2 … */
  create(depth: number, capacity: number): number {
    assert(depth >= 0 && depth <= depthMax, "a partition's depth is in bounds");
    if (this.#length === this.#depths.length) this.#growFields();
    const partition = this.#length;
    this.#length++;
    this.#reset(partition, depth, capacity);
    return partition;
  }

  /** Leading bits of a hash that name the partition. */
  depthOf(partition: number): number {
    return this.#depths[partition] as number;
  }

  /** Entries of a partition. */
  countOf(partition: number): number {
    return this.#counts[partition] as number;
  }

  /** The place of the first entry from place `from` on that has this hash, or -1. */
  find(partition: number, hash: IdHash, from: number): number {
    const memory = this.#memory;
    const slab = memory.slabOf[partition] as number;
    const offset = memory.offsetOf[partition] as number;
    const depth = this.#depths[partition] as number;
    const numberBits = numberBitsAtDepth0 + depth;
    const halves = memory.halves[slab] as Uint16Array;
    const bucket = bucketOf(depth, hash);
    const start = startOf(halves, offset >>> 1, bucket);
    const end = this.#endOf(partition, halves, bucket, start);
    const tagsAt = offset + headBytes + 4 * (this.#capacities[partition] as number);
    const bytes = memory.bytes[slab] as Uint8Array;
    const stored = storedBits(depth, hash);
    const tag = stored >>> (32 - tagBits);
    for (let at = from < start ? start : from; at < end; at++) {
      if (bytes[tagsAt + at] !== tag) continue;
      const words = memory.words[slab] as Uint32Array;
      const word = words[((offset + headBytes) >>> 2) + at] as number;
      if (word >>> numberBits === (stored << tagBits) >>> numberBits) return at;
    }
    return -1;
  }

  /** The number of the entry at a place. */
  numberAt(partition: number, place: number): number {
    const memory = this.#memory;
    const words = memory.words[memory.slabOf[partition] as number] as Uint32Array;
    const wordsAt = ((memory.offsetOf[partition] as number) + headBytes) >>> 2;
    const numberBits = numberBitsAtDepth0 + (this.#depths[partition] as number);
    return (words[wordsAt + place] as number) & (2 ** numberBits - 1);
  }

  /** Whether a partition must split before it takes an entry of this number. */
  mustSplit(partition: number, number: number): boolean {
    const depth = this.#depths[partition] as number;
    const isTooLarge = number >= 2 ** (numberBitsAtDepth0 + depth);
    if (depth < depthMax) {
      return isTooLarge || (this.#counts[partition] as number) >= partitionEntriesMax;
    }
    assert(!isTooLarge, "an entry number has at most 31 bits");
    return false;
  }

  /**
   * Enters a number into a partition that need not split. False, with nothing entered, where 1,024
   * entries have that very hash and `force` is false: then the id is most likely one of theirs.
   */
  insert(partition: number, hash: IdHash, number: number, force: boolean): boolean {
    if (this.#counts[partition] === this.#capacities[partition]) this.#grow(partition);
    const depth = this.#depths[partition] as number;
    const numberBits = numberBitsAtDepth0 + depth;
    const stored = storedBits(depth, hash);
    const tag = stored >>> (32 - tagBits);
    const word = ((((stored << tagBits) >>> numberBits) << numberBits) | number) >>> 0;
    const chunk = this.#chunk(partition);
    const bucket = bucketOf(depth, hash);
    const start = startOf(chunk.halves, chunk.headAt, bucket);
    const end = this.#endOf(partition, chunk.halves, bucket, start);
    let place = start;
    while (place < end && isBefore(chunk, place, tag, word)) place++;
    if (!force && place - start >= sameHashMax) {
      const other = chunk.words[chunk.wordsAt + place - sameHashMax] as number;
      const isSameTag = chunk.bytes[chunk.tagsAt + place - sameHashMax] === tag;
      if (isSameTag && other >>> numberBits === word >>> numberBits) return false;
    }
    const count = this.#counts[partition] as number;
    openPlace(chunk, place, count);
    addToBucket(chunk, bucket);
    chunk.bytes[chunk.tagsAt + place] = tag;
    chunk.words[chunk.wordsAt + place] = word;
    this.#counts[partition] = count + 1;
    return true;
  }

  /** Splits a partition: it keeps its lower half, one deeper, and the new one has the upper. */
  split(partition: number): number {
    const depth = (this.#depths[partition] as number) + 1;
    const count = this.#counts[partition] as number;
    const old = this.#moveToScratch(partition);
    const middle = startOf(old.halves, 0, bucketCount / 2);
    this.#memory.release(partition);
    this.#reset(partition, depth, middle);
    const upper = this.create(depth, count - middle);
    let from = 0;
    for (let bucket = 0; bucket < bucketCount; bucket++) {
      const end = bucket + 1 < bucketCount ? startOf(old.halves, 0, bucket + 1) : count;
      this.#moveBucket({ ...old, from, end }, bucket < bucketCount / 2 ? partition : upper, bucket);
      from = end;
    }
    assert(this.countOf(partition) + this.countOf(upper) === count, "a split keeps every entry");
    return upper;
  }

  /** What a snapshot keeps of a partition, as views that hold until the next change. */
  parts(partition: number): readonly Uint8Array[] {
    const { bytes, headAt, wordsAt, tagsAt } = this.#chunk(partition);
    const count = this.#counts[partition] as number;
    return [
      bytes.subarray(headAt * 2, headAt * 2 + headBytes),
      bytes.subarray(wordsAt * 4, (wordsAt + count) * 4),
      bytes.subarray(tagsAt, tagsAt + count),
    ];
  }

  /** Fills an empty partition with the parts of a snapshot; false where they contradict each other. */
  restore(partition: number, count: number, read: (target: Uint8Array) => void): boolean {
    this.#counts[partition] = count;
    for (const part of this.parts(partition)) read(part);
    const { halves, headAt } = this.#chunk(partition);
    let start = 0;
    for (let bucket = 0; bucket < bucketCount; bucket++) {
      const end = this.#endOf(partition, halves, bucket, start);
      if (startOf(halves, headAt, bucket) !== start || end < start) return false;
      start = end;
    }
    return true;
  }

  /** Where the bucket ends that starts at `start`. */
  #endOf(partition: number, halves: Uint16Array, bucket: number, start: number): number {
    const headAt = (this.#memory.offsetOf[partition] as number) >>> 1;
    const inGroup = bucket & (groupBuckets - 1);
    // The last bucket of a group ends where the next group starts.
    if (inGroup < groupBuckets - 1) return start + (halves[headAt + bucket + 1] as number);
    if (bucket + 1 < bucketCount) return halves[headAt + bucket + 1] as number;
    return this.#counts[partition] as number;
  }

  #chunk(partition: number): Chunk {
    const memory = this.#memory;
    const slab = memory.slabOf[partition] as number;
    const offset = memory.offsetOf[partition] as number;
    return {
      bytes: memory.bytes[slab] as Uint8Array,
      halves: memory.halves[slab] as Uint16Array,
      words: memory.words[slab] as Uint32Array,
      headAt: offset >>> 1,
      wordsAt: (offset + headBytes) >>> 2,
      tagsAt: offset + headBytes + 4 * (this.#capacities[partition] as number),
    };
  }

  #reset(partition: number, depth: number, capacity: number): void {
    const chunkBytes = chunkBytesFor(capacity);
    this.#depths[partition] = depth;
    this.#counts[partition] = 0;
    this.#capacities[partition] = (chunkBytes - headBytes) / 5;
    this.#memory.allocate(partition, chunkBytes);
    this.#memory.chunk(partition).fill(0, 0, headBytes);
  }

  #grow(partition: number): void {
    const count = this.#counts[partition] as number;
    assert(count < partitionCountMax, "a partition splits long before it overflows");
    const old = this.#moveToScratch(partition);
    const chunkBytes = chunkBytesFor(count + 1);
    this.#memory.resize(partition, chunkBytes);
    this.#capacities[partition] = (chunkBytes - headBytes) / 5;
    const { bytes, tagsAt } = this.#chunk(partition);
    bytes.set(old.bytes.subarray(old.tagsAt, old.tagsAt + count), tagsAt);
  }

  #moveToScratch(partition: number): Chunk {
    const chunk = this.#memory.chunk(partition);
    if (this.#scratch.length < chunk.length) this.#scratch = new Uint8Array(chunk.length);
    const bytes = this.#scratch;
    bytes.set(chunk);
    const capacity = this.#capacities[partition] as number;
    return {
      bytes,
      halves: new Uint16Array(bytes.buffer, 0, bucketCount),
      words: new Uint32Array(bytes.buffer, headBytes, capacity),
      headAt: 0,
      wordsAt: 0,
      tagsAt: headBytes + 4 * capacity,
    };
  }

  /** Moves one bucket of a partition that splits into two buckets of a half. */
  #moveBucket(old: Chunk & { from: number; end: number }, half: number, bucket: number): void {
    const chunk = this.#chunk(half);
    const numberBits = numberBitsAtDepth0 + (this.#depths[half] as number) - 1;
    const restBits = 32 - numberBits;
    const lower = (2 * bucket) % bucketCount;
    let place = this.#counts[half] as number;
    for (let at = old.from; at < old.end; at++) {
      const tag = old.bytes[old.tagsAt + at] as number;
      const word = old.words[at] as number;
      const rest = word >>> numberBits;
      // The hash loses its first stored bit to the bucket, and the number gains one.
      addToBucket(chunk, lower + (tag >>> (tagBits - 1)));
      chunk.bytes[chunk.tagsAt + place] = (tag << 1) | (rest >>> (restBits - 1));
      const kept = (rest & (2 ** (restBits - 1) - 1)) << (numberBits + 1);
      chunk.words[chunk.wordsAt + place] = kept | (word & (2 ** numberBits - 1));
      place++;
    }
    this.#counts[half] = place;
  }

  #growFields(): void {
    const length = this.#depths.length * 2;
    const [depths, counts, capacities] = [this.#depths, this.#counts, this.#capacities];
    this.#depths = new Uint8Array(length);
    this.#counts = new Uint16Array(length);
    this.#capacities = new Uint32Array(length);
    this.#depths.set(depths);
    this.#counts.set(counts);
    this.#capacities.set(capacities);
  }
}

/** A partition's memory: its slab, and where in it the parts start, each in its own unit. */
interface Chunk {
  readonly bytes: Uint8Array;
  readonly halves: Uint16Array;
  readonly words: Uint32Array;
  readonly headAt: number;
  readonly wordsAt: number;
  readonly tagsAt: number;
}

function bucketOf(depth: number, hash: IdHash): number {
  return (hash.high << depth) >>> (32 - bucketBits);
}

/** The stored bits of a hash, from the highest bit of the word on. */
function storedBits(depth: number, hash: IdHash): number {
  return (hash.high << (depth + bucketBits)) | (hash.low << (depth + bucketBits - lowBits));
}

function startOf(halves: Uint16Array, headAt: number, bucket: number): number {
  const last = headAt + bucket;
  let at = last - (bucket & (groupBuckets - 1));
  let start = halves[at] as number;
  while (at < last) {
    at++;
    start += halves[at] as number;
  }
  return start;
}

/** Counts one entry more in a bucket, and moves the starts of the groups after it. */
function addToBucket(chunk: Chunk, bucket: number): void {
  const { halves, headAt } = chunk;
  const inGroup = bucket & (groupBuckets - 1);
  const next = bucket - inGroup + groupBuckets;
  if (inGroup < groupBuckets - 1) {
    const at = headAt + bucket + 1;
    halves[at] = (halves[at] as number) + 1;
  }
  for (let at = headAt + next; at < headAt + bucketCount; at += groupBuckets) {
    halves[at] = (halves[at] as number) + 1;
  }
}

function isBefore(chunk: Chunk, place: number, tag: number, word: number): boolean {
  const other = chunk.bytes[chunk.tagsAt + place] as number;
  return other < tag || (other === tag && (chunk.words[chunk.wordsAt + place] as number) < word);
}

function openPlace(chunk: Chunk, place: number, count: number): void {
  if (place === count) return;
  const { bytes, words, tagsAt, wordsAt } = chunk;
  bytes.copyWithin(tagsAt + place + 1, tagsAt + place, tagsAt + count);
  words.copyWithin(wordsAt + place + 1, wordsAt + place, wordsAt + count);
}

function chunkBytesFor(capacity: number): number {
  const steps = Math.max(1, Math.ceil(capacity / capacityStep));
  return headBytes + steps * capacityStep * 5;
}
