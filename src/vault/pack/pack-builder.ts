/** Builds one data or map pack: frames of blocks, and the table that finds them again. */
import { assert } from "#base/assert.ts";
import { bytesEqual } from "#base/bytes.ts";
import { freeBuffer } from "#base/free-buffer.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import type { FrameCodec } from "#formats/container.ts";
import { packBytesTarget } from "#formats/geometry.ts";
import { encodeIndexSegment, type IndexPack } from "#formats/index-segment.ts";
import { ContainerBuilder, type PlacedFrame } from "#vault/container/container-builder.ts";
import { type FetchedFrame, openFrame } from "#vault/container/frame.ts";
import { computeId } from "#vault/hashing.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";

/** One block or node inside a frame's plaintext. */
export interface FrameBlock {
  readonly id: Uint8Array;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** A frame that was sealed for a pack: what it takes, and what it holds. */
export interface SealedFrame {
  readonly sealedBytes: number;
  readonly plainBytes: number;
  readonly codec: FrameCodec;
  readonly blocks: readonly FrameBlock[];
}

/** Under what frames for a pack are sealed elsewhere. */
export interface FrameTicket {
  readonly epoch: number;
  readonly salt: Uint8Array;
  /** Number of the first frame; those after it count on. */
  readonly firstFrame: number;
}

/** A finished pack and, but for its name, its row for the index. */
export interface BuiltPack {
  /** The whole object, in the buffer that the builder was given. */
  readonly bytes: Uint8Array;
  readonly table: Omit<IndexPack, "name">;
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
    readonly buffer?: Uint8Array;
  }) {
    this.#container = new ContainerBuilder(options);
    this.#idKey = options.type === "pack" ? options.keys.blockIdKey : options.keys.nodeIdKey;
    this.#verify = options.verify;
  }

  /** Bytes so far. */
  get sizeBytes(): number {
    return this.#container.sizeBytes;
  }

  /** Whether the pack has reached its target and should be finished. */
  get isFull(): boolean {
    return this.sizeBytes >= packBytesTarget;
  }

  /** Whether nothing was added. */
  get isEmpty(): boolean {
    return this.#entries.length === 0;
  }

  /** Seals `plain` (at most 1 MiB), which holds `blocks`, as one frame. */
  add(plain: Uint8Array, blocks: readonly FrameBlock[], options: { compress: boolean }): void {
    this.#take(this.#container.addFrame(plain, options), blocks);
  }

  /** Takes all that a frame of another pack holds, which is `blocks`, as one frame. */
  addResealed(from: FetchedFrame, blocks: readonly FrameBlock[]): void {
    this.#take(this.#container.addResealed(from), blocks);
  }

  /** A ticket for at most `frames` frames that are to be sealed elsewhere. */
  issueTicket(frames: number): FrameTicket {
    const { epoch, salt } = this.#container;
    return { epoch, salt, firstFrame: this.#container.reserveFrames(frames) };
  }

  /** Takes frames that were sealed under a ticket, one after the other in `bytes`; copied. */
  addSealed(bytes: Uint8Array, frames: readonly SealedFrame[]): void {
    this.#container.appendSealed(bytes);
    for (const frame of frames) this.#note(frame);
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
    return { bytes: this.#container.finish(footer), table };
  }

  #take(placed: PlacedFrame, blocks: readonly FrameBlock[]): void {
    const { plainBytes, codec } = placed.header;
    const bytes = this.#container.frameBytes(placed);
    if (this.#verify) {
      const opened = openFrame(this.#container.seal, placed.header, bytes, "new pack");
      assertReadsBack(opened, blocks, this.#idKey);
      freeBuffer(opened);
    }
    this.#note({ sealedBytes: bytes.byteLength, plainBytes, codec, blocks });
  }

  #note({ sealedBytes, plainBytes, codec, blocks }: SealedFrame): void {
    assert(blocks.length > 0, "a frame holds a block");
    const frame = this.#frames.length;
    this.#frames.push({ sealedBytes, plainBytes, codec });
    for (const { id, offsetBytes, lengthBytes } of blocks) {
      this.#entries.push({ id, frame, offsetBytes, lengthBytes });
    }
  }
}

/** Throws ObjectCorrupt unless every block of an opened frame hashes to its id. */
export function assertReadsBack(
  plain: Uint8Array,
  blocks: readonly FrameBlock[],
  idKey: Uint8Array,
): void {
  for (const { id, offsetBytes, lengthBytes } of blocks) {
    const content = plain.subarray(offsetBytes, offsetBytes + lengthBytes);
    if (!bytesEqual(computeId(idKey, content), id)) {
      throw new KluisError(
        "ObjectCorrupt",
        "Cannot store a block: what was sealed does not read back as it was (check the machine's memory)",
      );
    }
  }
}
