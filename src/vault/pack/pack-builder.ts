/** Builds one data or map pack: frames of blocks, and the table that finds them again. */
import { assert } from "#base/assert.ts";
import { bytesEqual } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { frameOverheadBytes } from "#formats/container.ts";
import { frameBytesMax, packBytesTarget } from "#formats/geometry.ts";
import { encodeIndexSegment, type IndexPack } from "#formats/index-segment.ts";
import { ContainerBuilder } from "#vault/container/container-builder.ts";
import { openFrame } from "#vault/container/frame.ts";
import { computeId } from "#vault/hashing.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";

/** Room that a pack's buffer needs: the target, one last frame, footer and trailer. */
export const packBufferBytes = packBytesTarget + 2 * frameBytesMax;

/** One block or node inside a frame's plaintext. */
export interface FrameBlock {
  readonly id: Uint8Array;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** A finished pack and its row for the index. */
export interface BuiltPack {
  /** The whole object, in the buffer that the builder was given. */
  readonly bytes: Uint8Array;
  readonly table: IndexPack;
}

type PackEntry = IndexPack["entries"][number];
type PackFrame = IndexPack["frames"][number];

/** Appends frames of blocks until the pack is full; see {@link PackBuilder.isFull}. */
export class PackBuilder {
  readonly #container: ContainerBuilder;
  readonly #idKey: Uint8Array;
  readonly #verify: boolean;
  readonly #frames: PackFrame[] = [];
  readonly #entries: PackEntry[] = [];

  constructor(options: {
    readonly type: "pack" | "mapPack";
    readonly keys: VaultKeys;
    readonly random: RandomSource;
    /** Decrypt, decompress and hash each frame after it was sealed. */
    readonly verify: boolean;
    readonly buffer?: ArrayBuffer;
  }) {
    this.#container = new ContainerBuilder(options);
    this.#idKey = options.type === "pack" ? options.keys.blockIdKey : options.keys.nodeIdKey;
    this.#verify = options.verify;
  }

  /** Whether the pack has reached its target and should be finished. */
  get isFull(): boolean {
    return this.#container.sizeBytes >= packBytesTarget;
  }

  /** Whether nothing was added. */
  get isEmpty(): boolean {
    return this.#entries.length === 0;
  }

  /** Blocks and nodes so far. */
  get entries(): number {
    return this.#entries.length;
  }

  /** Seals `plain` (at most 1 MiB), which holds `blocks`, as one frame; returns the bytes it takes. */
  add(plain: Uint8Array, blocks: readonly FrameBlock[], options: { compress: boolean }): number {
    assert(blocks.length > 0, "a frame holds a block");
    const placed = this.#container.addFrame(plain, options);
    const { header } = placed;
    const frame = this.#frames.length;
    if (this.#verify) {
      const name = `new ${this.#container.type}`;
      const bytes = this.#container.frameBytes(placed);
      this.#check(openFrame(this.#container.seal, header, bytes, name), blocks);
    }
    const sealedBytes = header.sealedBytes + frameOverheadBytes;
    this.#frames.push({
      sealedBytes,
      plainBytes: header.plainBytes,
      codec: header.codec,
    });
    for (const block of blocks) {
      this.#entries.push({
        id: block.id,
        frame,
        offsetBytes: block.offsetBytes,
        lengthBytes: block.lengthBytes,
      });
    }
    return sealedBytes;
  }

  /** Ends the pack with its footer. */
  finish(): BuiltPack {
    const table = {
      type: this.#container.type === "pack" ? ("pack" as const) : ("mapPack" as const),
      salt: this.#container.salt,
      epoch: this.#container.epoch,
      frames: this.#frames,
      entries: this.#entries,
    };
    const footer = encodeIndexSegment([{ ...table, name: new Uint8Array(32) }]);
    const { bytes, name } = this.#container.finish(footer);
    return { bytes, table: { ...table, name } };
  }

  #check(plain: Uint8Array, blocks: readonly FrameBlock[]): void {
    for (const block of blocks) {
      const content = plain.subarray(block.offsetBytes, block.offsetBytes + block.lengthBytes);
      if (!bytesEqual(computeId(this.#idKey, content), block.id)) {
        throw new KluisError(
          "ObjectCorrupt",
          "Cannot store a block: what was sealed does not read back as it was (check the machine's memory)",
        );
      }
    }
  }
}
