/**
 * Compresses the frames of a thread, all in one zstd context and into one buffer.
 *
 * `zstdCompressSync` makes a context for each call, of more than a megabyte, that only a full
 * collection frees, and a buffer for its result. A stream keeps its context, but compresses on another
 * thread while this one waits. What lies below both compresses at once, into the buffer it is given.
 * That is not documented: where a version of Node has it no longer, each call has its own context again.
 */
import { constants, createZstdCompress, zstdCompressSync } from "node:zlib";

import { assert } from "#base/assert.ts";
import { sealedBytesMax } from "#formats/container.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import { engineOf, runEngine, type ZstdEngine } from "./zstd-engine.ts";

/**
 * Between the levels 1 and 2 of zstd: on programs and libraries 2 % larger than level 2, in 15 %
 * less time (docs/adr/0006-vault-engine.md).
 */
const options = {
  // Room for any result: one piece, with no copy to join several.
  chunkSize: sealedBytesMax,
  params: {
    [constants.ZSTD_c_compressionLevel]: 1,
    [constants.ZSTD_c_windowLog]: 19,
    [constants.ZSTD_c_hashLog]: 14,
    [constants.ZSTD_c_minMatch]: 6,
    [constants.ZSTD_c_checksumFlag]: 0,
    [constants.ZSTD_c_contentSizeFlag]: 1,
  },
} as const;

/** See the file's head. */
export class Compressor {
  readonly #engine: ZstdEngine | undefined;
  readonly #target = new Uint8Array(sealedBytesMax);

  /** @param stream A compressing stream whose context is used; nothing else is done with it. */
  constructor(stream: object = createZstdCompress(options)) {
    this.#engine = engineOf(stream);
  }

  /** Whether all calls share one context. */
  get isShared(): boolean {
    return this.#engine !== undefined;
  }

  /** One zstd frame of `plain`, 1 byte to 1 MiB; valid until the next call. */
  compress(plain: Uint8Array): Uint8Array {
    assert(plain.byteLength <= frameBytesMax, "what is compressed fits into a frame");
    if (this.#engine === undefined) return zstdCompressSync(plain, options);
    const target = this.#target;
    const outputLeft = runEngine(this.#engine, plain, target);
    assert(outputLeft > 0, "a whole frame was compressed");
    return target.subarray(0, target.byteLength - outputLeft);
  }
}
