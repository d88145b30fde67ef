/**
 * The table in memory from ids to entry numbers: 36 bits of each id, some 5.4 bytes an entry.
 *
 * It says which entries an id may be; the reader compares the full id. Of N entries a strange id
 * meets one in N / 2^36 lookups (0.03 % at 20 million). Partitions are found by a directory of
 * prefixes and split alone, so that growth never copies more than some 16 KiB at once.
 */
import { assert } from "#base/assert.ts";
import { idBytes } from "#formats/geometry.ts";
import { depthMax, type IdHash, IdPartitions, partitionCountMax } from "./id-partitions.ts";

/** One partition of a snapshot; `read` fills the arrays that follow, one after the other. */
export interface PartitionSnapshot {
  readonly depth: number;
  readonly count: number;
  readonly read: (target: Uint8Array) => void;
}

/** Ids to numbers; several numbers may belong to one id, and are all found. */
export class IdTable {
  #partitions = new IdPartitions();
  /** Leading bits of a hash that the directory goes by. */
  #depth = 0;
  #directory = new Uint32Array(1);
  #count = 0;
  /** What {@link first} looked for, and where it was. */
  readonly #hash: IdHash = { high: 0, low: 0 };
  #partition = 0;
  #place = -1;

  /** An empty table. */
  constructor() {
    this.#partitions.create(0, 0);
  }

  /** Entries. */
  get count(): number {
    return this.#count;
  }

  /** Partitions; see {@link snapshot}. */
  get partitionCount(): number {
    return this.#partitions.length;
  }

  /** Bytes of memory. */
  get memoryBytes(): number {
    return this.#partitions.memoryBytes + this.#directory.byteLength;
  }

  /** The number of the first entry that may have the id at `ids[at]`, or -1. */
  first(ids: Uint8Array, at: number): number {
    this.#seek(ids, at);
    this.#place = -1;
    return this.next();
  }

  /** The next number after {@link first} or this returned one, or -1. Nothing may be inserted between. */
  next(): number {
    this.#place = this.#partitions.find(this.#partition, this.#hash, this.#place + 1);
    return this.#place < 0 ? -1 : this.#partitions.numberAt(this.#partition, this.#place);
  }

  /**
   * Enters a number for the id at `ids[at]`.
   *
   * False where 1,024 lower numbers with that hash are there already and `force` is false: the
   * caller finds out whether the id is one of theirs, and forces it in if not.
   */
  insert(ids: Uint8Array, at: number, number: number, force: boolean): boolean {
    this.#seek(ids, at);
    while (this.#partitions.mustSplit(this.#partition, number)) {
      this.#split();
      this.#partition = this.#directory[this.#prefix()] as number;
    }
    const inserted = this.#partitions.insert(this.#partition, this.#hash, number, force);
    if (inserted) this.#count++;
    return inserted;
  }

  /** Every partition in the order of its prefix: how deep it is, what it counts, and its content. */
  *snapshot(): Generator<{ depth: number; count: number; parts: readonly Uint8Array[] }> {
    for (let at = 0; at < this.#directory.length;) {
      const partition = this.#directory[at] as number;
      const depth = this.#partitions.depthOf(partition);
      const parts = this.#partitions.parts(partition);
      yield { depth, count: this.#partitions.countOf(partition), parts };
      at += 2 ** (this.#depth - depth);
    }
  }

  /**
   * Builds a table from partitions, which `next` gives in the order of {@link snapshot};
   * `undefined` where they contradict each other.
   */
  static restore(partitionCount: number, next: () => PartitionSnapshot): IdTable | undefined {
    const table = new IdTable();
    const partitions = new IdPartitions();
    const depths: number[] = [];
    let covered = 0;
    while (covered < 2 ** depthMax) {
      const { depth, count, read } = next();
      if (depth > depthMax || count > partitionCountMax) return undefined;
      if (!partitions.restore(partitions.create(depth, count), count, read)) return undefined;
      depths.push(depth);
      table.#count += count;
      covered += 2 ** (depthMax - depth);
    }
    if (covered !== 2 ** depthMax || depths.length !== partitionCount) return undefined;
    table.#fill(partitions, depths);
    return table;
  }

  #seek(ids: Uint8Array, at: number): void {
    assert(at + idBytes <= ids.byteLength, "an id has 24 bytes");
    const first = ((ids[at] as number) << 24) | ((ids[at + 1] as number) << 16);
    const second = ((ids[at + 2] as number) << 8) | (ids[at + 3] as number);
    this.#hash.high = first | second;
    this.#hash.low = (ids[at + 4] as number) >>> 4;
    this.#partition = this.#directory[this.#prefix()] as number;
  }

  #prefix(): number {
    return this.#depth === 0 ? 0 : this.#hash.high >>> (32 - this.#depth);
  }

  /** Splits the partition that was sought, and the directory if it was the deepest. */
  #split(): void {
    const lower = this.#partition;
    if (this.#partitions.depthOf(lower) === this.#depth) this.#deepen();
    const upper = this.#partitions.split(lower);
    const half = 2 ** (this.#depth - this.#partitions.depthOf(upper));
    const at = this.#prefix();
    const first = at - (at % (2 * half));
    this.#directory.fill(upper, first + half, first + 2 * half);
  }

  #deepen(): void {
    const old = this.#directory;
    this.#depth++;
    this.#directory = new Uint32Array(old.length * 2);
    old.forEach((partition, at) => this.#directory.fill(partition, 2 * at, 2 * at + 2));
  }

  /** Takes partitions, numbered in the order of their prefixes, that cover every prefix once. */
  #fill(partitions: IdPartitions, depths: readonly number[]): void {
    this.#partitions = partitions;
    this.#depth = depths.reduce((deepest, depth) => Math.max(deepest, depth), 0);
    this.#directory = new Uint32Array(2 ** this.#depth);
    let at = 0;
    depths.forEach((depth, partition) => {
      const end = at + 2 ** (this.#depth - depth);
      this.#directory.fill(partition, at, end);
      at = end;
    });
  }
}
