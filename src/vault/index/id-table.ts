/**
 * The table in memory from ids to entry numbers: 36 bits of each id, about 5.4 bytes an entry.
 *
 * It says which entries an id may be; the reader compares the full id. Of N entries a strange id
 * meets one in N / 2^36 lookups (0.03 % at 20 million). Partitions are found by a directory of
 * prefixes and split alone, so that growth never copies more than some 30 KiB at once.
 */
import { assert } from "#base/assert.ts";
import { idBytes } from "#formats/geometry.ts";
import { depthMax, IdPartition, partitionCountMax, partitionEntriesMax } from "./id-partition.ts";
import { PartitionMemory } from "./partition-memory.ts";

/** What the objects of a partition take beside its chunk (three views), by measurement. */
const partitionObjectBytes = 450;

/** One partition of a snapshot; `read` fills the arrays that follow, one after the other. */
export interface PartitionSnapshot {
  readonly depth: number;
  readonly count: number;
  readonly read: (target: Uint8Array) => void;
}

/** Ids to numbers; several numbers may belong to one id, and are all found. */
export class IdTable {
  #depth = 0;
  #memory = new PartitionMemory();
  #directory: IdPartition[] = [new IdPartition(this.#memory, 0, 0)];
  #partitions = 1;
  #count = 0;
  #found = this.#directory[0] as IdPartition;
  #place = -1;
  #high = 0;
  #low = 0;

  /** Entries. */
  get count(): number {
    return this.#count;
  }

  /** Partitions; see {@link partitions}. */
  get partitionCount(): number {
    return this.#partitions;
  }

  /** Bytes of memory. */
  get memoryBytes(): number {
    const objectBytes = this.#partitions * partitionObjectBytes + this.#directory.length * 8;
    return this.#memory.memoryBytes + objectBytes;
  }

  /** The number of the first entry that may have the id at `ids[at]`, or -1. */
  first(ids: Uint8Array, at: number): number {
    const high = readHigh(ids, at);
    const low = (ids[at + 4] as number) >>> 4;
    const partition = this.#partition(high);
    const place = partition.find(high, low, -1);
    if (place < 0) return -1;
    this.#found = partition;
    this.#place = place;
    this.#high = high;
    this.#low = low;
    return partition.numberAt(place);
  }

  /** The next number after {@link first} or this returned one, or -1. Nothing may be inserted between. */
  next(): number {
    const place = this.#found.find(this.#high, this.#low, this.#place + 1);
    if (place < 0) return -1;
    this.#place = place;
    return this.#found.numberAt(place);
  }

  /**
   * Enters a number, which is above every number before, for the id at `ids[at]`.
   *
   * False where 1,024 entries with that hash are there already and `force` is false: the caller
   * finds out whether the id is one of theirs, and forces it in if not.
   */
  insert(ids: Uint8Array, at: number, number: number, force: boolean): boolean {
    const high = readHigh(ids, at);
    let partition = this.#partition(high);
    while (mustSplit(partition, number)) {
      this.#split(partition, high);
      partition = this.#partition(high);
    }
    assert(number < partition.numberLimit, "an entry number has at most 31 bits");
    const inserted = partition.insert(high, (ids[at + 4] as number) >>> 4, number, force);
    if (inserted) this.#count++;
    return inserted;
  }

  /** Every partition once, in the order of its prefix. */
  *partitions(): Generator<IdPartition> {
    let last: IdPartition | undefined;
    for (const partition of this.#directory) {
      if (partition !== last) yield partition;
      last = partition;
    }
  }

  /**
   * Builds a table from a snapshot's partitions, which `next` gives in the order of
   * {@link partitions}; `undefined` where they contradict each other.
   */
  static restore(partitionCount: number, next: () => PartitionSnapshot): IdTable | undefined {
    const table = new IdTable();
    const partitions: IdPartition[] = [];
    table.#memory = new PartitionMemory();
    let covered = 0;
    for (let at = 0; at < partitionCount; at++) {
      const { depth, count, read } = next();
      if (depth > depthMax || count > partitionCountMax) return undefined;
      const partition = new IdPartition(table.#memory, depth, count);
      if (!partition.restore(count, read)) return undefined;
      partitions.push(partition);
      table.#count += count;
      table.#depth = Math.max(table.#depth, depth);
      covered += 2 ** (depthMax - depth);
    }
    if (covered !== 2 ** depthMax) return undefined;
    table.#partitions = partitionCount;
    table.#directory = [];
    for (const partition of partitions) {
      const copies = 2 ** (table.#depth - partition.depth);
      for (let copy = 0; copy < copies; copy++) table.#directory.push(partition);
    }
    return table;
  }

  #partition(high: number): IdPartition {
    const at = this.#depth === 0 ? 0 : high >>> (32 - this.#depth);
    return this.#directory[at] as IdPartition;
  }

  #split(partition: IdPartition, high: number): void {
    if (partition.depth === this.#depth) {
      this.#directory = this.#directory.flatMap((entry) => [entry, entry]);
      this.#depth++;
    }
    const [left, right] = partition.split();
    this.#partitions++;
    const half = 2 ** (this.#depth - left.depth);
    const at = high >>> (32 - this.#depth);
    const first = at - (at % (2 * half));
    this.#directory.fill(left, first, first + half);
    this.#directory.fill(right, first + half, first + 2 * half);
  }
}

function mustSplit(partition: IdPartition, number: number): boolean {
  if (partition.depth === depthMax) return false;
  return partition.count >= partitionEntriesMax || number >= partition.numberLimit;
}

function readHigh(ids: Uint8Array, at: number): number {
  assert(at + idBytes <= ids.byteLength, "an id has 24 bytes");
  return (
    (((ids[at] as number) << 24) |
      ((ids[at + 1] as number) << 16) |
      ((ids[at + 2] as number) << 8) |
      (ids[at + 3] as number)) >>>
    0
  );
}
