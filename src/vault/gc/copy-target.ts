/** Cuts copied blocks into frames and packs. */
import { allocateAligned } from "#base/aligned-memory.ts";
import { toHex } from "#base/bytes.ts";
import { Pool } from "#base/pool.ts";
import type { RandomSource } from "#base/random.ts";
import { frameBytesMax, packBytesTarget, windowBytes } from "#formats/geometry.ts";
import type { FetchedFrame } from "#vault/container/frame.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import {
  packBuffers,
  packEntriesMax,
  packFooterBytesMax,
  pageFrameBytesMax,
} from "#vault/limits.ts";
import { type FrameBlock, PackBuilder } from "#vault/pack/pack-builder.ts";
import type { FinishedPack } from "#vault/writer/pack-assembler.ts";

/** Room for a pack that reaches its target with its last frame. */
const bufferBytes = packBytesTarget + 2 * frameBytesMax + packFooterBytesMax;

/** Buffers for the packs of a collection: one fills while another is put. */
export function createCopyBuffers(): Pool<Uint8Array> {
  return new Pool({ size: packBuffers, make: () => allocateAligned(bufferBytes, "private") });
}

/** What a target is made with. */
export interface CopyTargetDeps {
  readonly keys: VaultKeys;
  readonly salts: RandomSource;
  readonly buffers: Pool<Uint8Array>;
  /** Takes a pack that is full. */
  readonly onPack: (pack: FinishedPack) => void;
  readonly signal: AbortSignal;
}

/** One type of packs, of which one is open; calls do not overlap. */
export class CopyTarget {
  readonly #type: "pack" | "mapPack";
  readonly #deps: CopyTargetDeps;
  readonly #frame = new Uint8Array(frameBytesMax);
  readonly #claimed = new Set<string>();
  #open: { readonly builder: PackBuilder; readonly buffer: Uint8Array } | undefined;
  #blocks: FrameBlock[] = [];
  #length = 0;
  #packBlocks = 0;
  #sealedBytes = 0;

  constructor(type: "pack" | "mapPack", deps: CopyTargetDeps) {
    this.#type = type;
    this.#deps = deps;
  }

  /** Bytes of the packs that are finished. */
  get sealedBytes(): number {
    return this.#sealedBytes;
  }

  /** Whether nobody has claimed that block before: then the caller adds it. */
  claim(id: Uint8Array): boolean {
    const key = toHex(id);
    if (this.#claimed.has(key)) return false;
    this.#claimed.add(key);
    return true;
  }

  /** Takes one block; copied. */
  async add(id: Uint8Array, content: Uint8Array): Promise<void> {
    const lengthBytes = content.byteLength;
    // As the writer cuts them: pages of an increment lie far apart on the disk.
    const isPages = this.#type === "pack" && lengthBytes < windowBytes;
    const frameMax = isPages ? pageFrameBytesMax : frameBytesMax;
    if (this.#length + lengthBytes > frameMax) await this.#seal();
    this.#frame.set(content, this.#length);
    this.#blocks.push({ id, offsetBytes: this.#length, lengthBytes });
    this.#length += lengthBytes;
  }

  /** Takes a frame that holds nothing but `blocks`; copied. */
  async addFrame(frame: FetchedFrame, blocks: readonly FrameBlock[]): Promise<void> {
    (await this.#builder()).addResealed(frame, blocks);
    this.#endIfFull(blocks.length);
  }

  /** Hands over what waits. */
  async finish(): Promise<void> {
    await this.#seal();
    this.#end();
  }

  async #seal(): Promise<void> {
    const blocks = this.#blocks;
    if (blocks.length === 0) return;
    const builder = await this.#builder();
    builder.add(this.#frame.subarray(0, this.#length), blocks, { compress: true });
    this.#blocks = [];
    this.#length = 0;
    this.#endIfFull(blocks.length);
  }

  async #builder(): Promise<PackBuilder> {
    if (this.#open === undefined) {
      const { keys, salts: random, buffers, signal } = this.#deps;
      const buffer = await buffers.take(signal);
      const builder = new PackBuilder({ type: this.#type, keys, random, verify: true, buffer });
      this.#open = { builder, buffer };
    }
    return this.#open.builder;
  }

  #endIfFull(blocks: number): void {
    this.#packBlocks += blocks;
    if (this.#open?.builder.isFull === true || this.#packBlocks >= packEntriesMax) this.#end();
  }

  #end(): void {
    if (this.#open === undefined) return;
    const { builder, buffer } = this.#open;
    const release = (): void => this.#deps.buffers.give(buffer);
    const pack = { ...builder.finish(), release };
    this.#sealedBytes += pack.bytes.byteLength;
    this.#open = undefined;
    this.#packBlocks = 0;
    this.#deps.onPack(pack);
  }
}
