/**
 * Memory of the partitions of an {@link IdTable}: chunks of some sizes in slabs of one size.
 *
 * Partitions grow by small steps, all at about the same time. A general allocator leaves the memory
 * full of holes then (measured: 12 bytes resident for an entry of 5). Here the last chunk of a size
 * moves into each hole, so that of each size at most one slab is not full, and an empty slab serves
 * any size. A table only grows, so an empty slab is soon used again and none is given back.
 */
import { assert, present } from "#base/assert.ts";

/** Bytes of a slab. */
export const slabBytes = 1024 * 1024;
/** Chunks start and end on multiples of this. */
export const chunkAlignBytes = 32;

const partitionsMin = 64;

/** Chunks of one size; partition numbers stand in the order of the chunks. */
interface ChunkClass {
  readonly chunkBytes: number;
  readonly perSlab: number;
  readonly slabs: number[];
  readonly owners: number[];
}

/** Hands out one chunk to each partition, by number, and keeps chunks dense. */
export class PartitionMemory {
  /** Every slab as bytes, and as little-endian words of 2 and 4 bytes. */
  readonly bytes: Uint8Array[] = [];
  readonly halves: Uint16Array[] = [];
  readonly words: Uint32Array[] = [];
  /** Where the chunk of each partition lies now: any allocation may move it. */
  slabOf = new Uint32Array(partitionsMin);
  offsetOf = new Uint32Array(partitionsMin);
  readonly #classes = new Map<number, ChunkClass>();
  readonly #spares: number[] = [];
  #placeOf = new Uint32Array(partitionsMin);
  #chunkBytesOf = new Uint32Array(partitionsMin);

  /** Bytes of all slabs and of the places. */
  get memoryBytes(): number {
    return this.bytes.length * slabBytes + this.slabOf.byteLength * 4;
  }

  /** Gives a partition that has none a chunk; its content is undefined. */
  allocate(partition: number, chunkBytes: number): void {
    assert(chunkBytes > 0 && chunkBytes <= slabBytes, "a chunk fits a slab");
    assert(chunkBytes % chunkAlignBytes === 0, "a chunk is aligned");
    if (partition >= this.slabOf.length) this.#growPlaces();
    const chunks = this.#classOf(chunkBytes);
    if (chunks.owners.length === chunks.slabs.length * chunks.perSlab) {
      chunks.slabs.push(this.#takeSlab());
    }
    chunks.owners.push(partition);
    this.#place(chunks, chunks.owners.length - 1);
  }

  /** Moves a partition's content to a chunk of another size; what does not fit is lost. */
  resize(partition: number, chunkBytes: number): void {
    const old = this.#classOf(this.#chunkBytesOf[partition] as number);
    const oldPlace = this.#placeOf[partition] as number;
    const source = this.#chunk(old, oldPlace);
    this.allocate(partition, chunkBytes);
    const target = this.chunk(partition);
    target.set(source.subarray(0, target.length));
    this.#close(old, oldPlace);
  }

  /** Takes a partition's chunk back. */
  release(partition: number): void {
    const chunks = this.#classOf(this.#chunkBytesOf[partition] as number);
    this.#close(chunks, this.#placeOf[partition] as number);
  }

  /** The chunk of a partition, until the next allocation. */
  chunk(partition: number): Uint8Array {
    const chunks = this.#classOf(this.#chunkBytesOf[partition] as number);
    return this.#chunk(chunks, this.#placeOf[partition] as number);
  }

  #close(chunks: ChunkClass, hole: number): void {
    const last = present(chunks.owners.pop(), "a hole is among the chunks");
    const lastPlace = chunks.owners.length;
    if (lastPlace !== hole) {
      this.#chunk(chunks, hole).set(this.#chunk(chunks, lastPlace));
      chunks.owners[hole] = last;
      this.#place(chunks, hole);
    }
    if (lastPlace % chunks.perSlab === 0) {
      this.#spares.push(present(chunks.slabs.pop(), "the last chunk lies in a slab"));
    }
  }

  #place(chunks: ChunkClass, at: number): void {
    const owner = present(chunks.owners[at], "a chunk has an owner");
    this.slabOf[owner] = present(chunks.slabs[Math.floor(at / chunks.perSlab)], "a slab");
    this.offsetOf[owner] = (at % chunks.perSlab) * chunks.chunkBytes;
    this.#placeOf[owner] = at;
    this.#chunkBytesOf[owner] = chunks.chunkBytes;
  }

  #chunk(chunks: ChunkClass, at: number): Uint8Array {
    const slab = present(chunks.slabs[Math.floor(at / chunks.perSlab)], "a slab");
    const offset = (at % chunks.perSlab) * chunks.chunkBytes;
    const bytes = present(this.bytes[slab], "the bytes of a slab");
    return bytes.subarray(offset, offset + chunks.chunkBytes);
  }

  #classOf(chunkBytes: number): ChunkClass {
    let chunks = this.#classes.get(chunkBytes);
    if (chunks === undefined) {
      const perSlab = Math.floor(slabBytes / chunkBytes);
      chunks = { chunkBytes, perSlab, slabs: [], owners: [] };
      this.#classes.set(chunkBytes, chunks);
    }
    return chunks;
  }

  #takeSlab(): number {
    const spare = this.#spares.pop();
    if (spare !== undefined) return spare;
    const memory = new ArrayBuffer(slabBytes);
    this.bytes.push(new Uint8Array(memory));
    this.halves.push(new Uint16Array(memory));
    return this.words.push(new Uint32Array(memory)) - 1;
  }

  #growPlaces(): void {
    this.slabOf = twice(this.slabOf);
    this.offsetOf = twice(this.offsetOf);
    this.#placeOf = twice(this.#placeOf);
    this.#chunkBytesOf = twice(this.#chunkBytesOf);
  }
}

function twice(places: Uint32Array): Uint32Array<ArrayBuffer> {
  const grown = new Uint32Array(places.length * 2);
  grown.set(places);
  return grown;
}
