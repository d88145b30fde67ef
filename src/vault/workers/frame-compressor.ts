/**
 * Compresses frame after frame with one context of zstd.
 *
 * `zstdCompressSync` leaves a context of a megabyte behind at each call, which only a full
 * collection of V8 frees: collecting often enough to bound the memory took a tenth of a backup's
 * processor time.
 */
import { constants, createZstdCompress, type ZstdCompress } from "node:zlib";

import { assert } from "#base/assert.ts";
import { sealedBytesMax } from "#formats/container.ts";
import { frameCompression } from "#vault/container/compression.ts";

/** One frame at a time; compresses on a thread of libuv's pool. */
export class FrameCompressor {
  readonly #stream: ZstdCompress;
  #isBusy = false;
  #error: Error | undefined;

  constructor() {
    const options = {
      ...frameCompression,
      // Each write is a frame of its own, and all of its result waits here to be read.
      flush: constants.ZSTD_e_end,
      highWaterMark: 2 * sealedBytesMax,
    };
    this.#stream = createZstdCompress(options);
    this.#stream.on("error", (error) => (this.#error = error));
  }

  /** What `plain` compresses to; `plain` is not touched until then, the result is the caller's. */
  async compress(plain: Uint8Array): Promise<Uint8Array> {
    assert(!this.#isBusy, "frames are compressed one after the other");
    this.#isBusy = true;
    const done = Promise.withResolvers<void>();
    this.#stream.write(plain, (error) => (error ? done.reject(error) : done.resolve()));
    await done.promise;
    this.#isBusy = false;
    if (this.#error !== undefined) throw this.#error;
    const packed = this.#stream.read() as Uint8Array | null;
    assert(packed !== null, "a frame compresses to something");
    return packed;
  }
}
