/**
 * Decompresses the frames of a thread, all in one zstd context and each into memory of the caller.
 *
 * `zstdDecompressSync` makes a context for each call that only a full collection frees, and a buffer
 * for its result: a worker of a restore ran a full collection every 80 ms. So this uses what lies below
 * a stream, as `compressor.ts` does. It does not tell why something failed, and a frame that has no end
 * leaves the context in the middle of it: what does not come out right is done again by
 * `zstdDecompressSync`, whose word counts, and the next frame gets a new context.
 */
import { createZstdDecompress, zstdDecompressSync } from "node:zlib";

import { noteContext } from "./garbage.ts";
import { engineOf, runEngine, type ZstdEngine } from "./zstd-engine.ts";

/** Node takes no smaller ones. */
const chunkBytesMin = 64;

/** See the file's head. */
export class Decompressor {
  readonly #createStream: () => object;
  #engine: ZstdEngine | undefined;

  /** @param createStream Makes a decompressing stream whose context is used; nothing else is done with it. */
  constructor(createStream: () => object = createZstdDecompress) {
    this.#createStream = createStream;
    this.#engine = engineOf(createStream());
  }

  /** Whether all calls share one context. */
  get isShared(): boolean {
    return this.#engine !== undefined;
  }

  /**
   * Fills the first `plainBytes` of `target`, which may lie in shared memory, with what `packed`
   * decompresses to. Throws what node:zlib throws, or a RangeError where that has another length. That
   * a frame has no end shows only where `target` has a byte more; its bytes may be written as well.
   */
  decompress(packed: Uint8Array, target: Uint8Array, plainBytes: number): void {
    if (this.#engine !== undefined) {
      if (runEngine(this.#engine, packed, target) === target.byteLength - plainBytes) return;
      this.#engine = engineOf(this.#createStream());
    }
    noteContext();
    const plain = zstdDecompressSync(packed, {
      chunkSize: Math.max(chunkBytesMin, plainBytes),
      maxOutputLength: plainBytes,
    });
    if (plain.byteLength !== plainBytes) throw new RangeError("it is shorter than it should be");
    target.set(plain);
  }
}
