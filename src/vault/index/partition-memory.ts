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
export const slabBytes = 512 * 1024;

/** Owns one chunk. The memory sets its fields; they are nobody else's to change. */
export interface ChunkOwner {
  /** 0 where it has no chunk. */
  chunkBytes: number;
  chunkPlace: number;
  /** The chunk lies at `offset` of `slab` from now on; its content moved along. */
  attach(slab: ArrayBuffer, offset: number): void;
}

interface ChunkClass {
  readonly chunkBytes: number;
  readonly perSlab: number;
  readonly slabs: ArrayBuffer[];
  /** Owner of each chunk, in order. */
  readonly owners: ChunkOwner[];
}

/** Hands out chunks and keeps them dense. */
export class PartitionMemory {
  readonly #classes = new Map<number, ChunkClass>();
  readonly #spares: ArrayBuffer[] = [];
  #slabs = 0;

  /** Bytes of all slabs. */
  get memoryBytes(): number {
    return this.#slabs * slabBytes;
  }

  /** Gives `owner`, which has none, a chunk; its content is undefined. */
  allocate(owner: ChunkOwner, chunkBytes: number): void {
    assert(owner.chunkBytes === 0, "an owner has one chunk");
    assert(chunkBytes > 0 && chunkBytes % 8 === 0 && chunkBytes <= slabBytes, "a chunk fits");
    const chunks = this.#classOf(chunkBytes);
    if (chunks.owners.length === chunks.slabs.length * chunks.perSlab) {
      chunks.slabs.push(this.#takeSlab());
    }
    chunks.owners.push(owner);
    place(chunks, chunks.owners.length - 1);
  }

  /** Moves the content of an owner's chunk to another size; what does not fit is lost. */
  resize(owner: ChunkOwner, chunkBytes: number): void {
    const old = { ...owner, chunks: this.#classOf(owner.chunkBytes) };
    const source = chunkAt(old.chunks, old.chunkPlace);
    owner.chunkBytes = 0;
    this.allocate(owner, chunkBytes);
    const target = chunkAt(this.#classOf(chunkBytes), owner.chunkPlace);
    target.set(source.subarray(0, target.byteLength));
    this.#close(old.chunks, old.chunkPlace);
  }

  /** Takes an owner's chunk back. */
  release(owner: ChunkOwner): void {
    const chunks = this.#classOf(owner.chunkBytes);
    owner.chunkBytes = 0;
    this.#close(chunks, owner.chunkPlace);
  }

  #close(chunks: ChunkClass, hole: number): void {
    const last = present(chunks.owners.pop(), "a hole is among the chunks");
    const lastPlace = chunks.owners.length;
    if (lastPlace !== hole) {
      chunkAt(chunks, hole).set(chunkAt(chunks, lastPlace));
      chunks.owners[hole] = last;
      place(chunks, hole);
    }
    if (lastPlace % chunks.perSlab === 0) {
      this.#giveSlab(present(chunks.slabs.pop(), "the last chunk lies in a slab"));
    }
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

  #takeSlab(): ArrayBuffer {
    const spare = this.#spares.pop();
    if (spare !== undefined) return spare;
    this.#slabs++;
    return new ArrayBuffer(slabBytes);
  }

  #giveSlab(slab: ArrayBuffer): void {
    this.#spares.push(slab);
  }
}

function place(chunks: ChunkClass, at: number): void {
  const owner = present(chunks.owners[at], "a chunk has an owner");
  owner.chunkBytes = chunks.chunkBytes;
  owner.chunkPlace = at;
  const slab = present(chunks.slabs[Math.floor(at / chunks.perSlab)], "a chunk lies in a slab");
  owner.attach(slab, (at % chunks.perSlab) * chunks.chunkBytes);
}

function chunkAt(chunks: ChunkClass, at: number): Uint8Array {
  const slab = present(chunks.slabs[Math.floor(at / chunks.perSlab)], "a chunk lies in a slab");
  return new Uint8Array(slab, (at % chunks.perSlab) * chunks.chunkBytes, chunks.chunkBytes);
}
