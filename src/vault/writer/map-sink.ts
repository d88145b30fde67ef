/** Collects new map nodes and packs them once every block they name exists. */
import { asBuffer } from "#base/bytes.ts";
import type { RandomSource } from "#base/random.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { type FrameBlock, PackBuilder } from "#vault/pack/pack-builder.ts";
import type { PackSink } from "#vault/writer/pack-sink.ts";

/** A map node on its way into the store. */
export interface NewNode {
  readonly id: Uint8Array;
  readonly bytes: Uint8Array;
}

/** Nodes of one session that are not in the store yet. */
export class MapSink {
  readonly #keys: VaultKeys;
  readonly #random: RandomSource;
  readonly #index: BlockIndex;
  readonly #sink: PackSink;
  readonly #verify: boolean;
  readonly #bytesMax: number;
  #nodes: NewNode[] = [];
  #queued = new Set<string>();
  #bytes = 0;

  constructor(options: {
    readonly keys: VaultKeys;
    readonly random: RandomSource;
    readonly index: BlockIndex;
    readonly sink: PackSink;
    readonly verify: boolean;
    /** When {@link MapSink.isFlushDue}. */
    readonly bytesMax: number;
  }) {
    this.#keys = options.keys;
    this.#random = options.random;
    this.#index = options.index;
    this.#sink = options.sink;
    this.#verify = options.verify;
    this.#bytesMax = options.bytesMax;
  }

  /** Whether so much waits that {@link putAll} should be called soon. */
  get isFlushDue(): boolean {
    return this.#bytes >= this.#bytesMax;
  }

  /** Takes a node, unless the vault or this session has it. */
  add(node: NewNode): void {
    const name = asBuffer(node.id).toString("latin1");
    if (this.#queued.has(name) || this.#index.has(node.id)) return;
    this.#queued.add(name);
    this.#nodes.push(node);
    this.#bytes += node.bytes.byteLength;
  }

  /**
   * Packs and hands over every waiting node. Call it only when all blocks they name are durable
   * and in an index segment; the packs are durable after the sink's next drain.
   */
  putAll(): void {
    const nodes = this.#nodes;
    this.#nodes = [];
    this.#queued = new Set();
    this.#bytes = 0;
    const packs = new MapPacker(
      () =>
        new PackBuilder({
          type: "mapPack",
          keys: this.#keys,
          random: this.#random,
          verify: this.#verify,
        }),
      (builder) => this.#sink.accept({ ...builder.finish(), release: () => {} }),
    );
    for (const node of nodes) packs.add(node);
    packs.finish();
  }
}

/** Cuts nodes into frames and packs. */
class MapPacker {
  readonly #open: () => PackBuilder;
  readonly #close: (builder: PackBuilder) => void;
  readonly #frame = new Uint8Array(frameBytesMax);
  #builder: PackBuilder | undefined;
  #blocks: FrameBlock[] = [];
  #length = 0;

  constructor(open: () => PackBuilder, close: (builder: PackBuilder) => void) {
    this.#open = open;
    this.#close = close;
  }

  add({ id, bytes }: NewNode): void {
    if (this.#length + bytes.byteLength > frameBytesMax) this.#seal();
    this.#frame.set(bytes, this.#length);
    this.#blocks.push({ id, offsetBytes: this.#length, lengthBytes: bytes.byteLength });
    this.#length += bytes.byteLength;
  }

  finish(): void {
    this.#seal();
    if (this.#builder !== undefined) this.#close(this.#builder);
  }

  #seal(): void {
    if (this.#blocks.length === 0) return;
    this.#builder ??= this.#open();
    this.#builder.add(this.#frame.subarray(0, this.#length), this.#blocks, { compress: true });
    this.#blocks = [];
    this.#length = 0;
    if (!this.#builder.isFull) return;
    this.#close(this.#builder);
    this.#builder = undefined;
  }
}
