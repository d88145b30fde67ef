/** How the frames of a vault are compressed; docs/adr/0006-vault-engine.md has the figures. */
import { constants, type ZstdOptions } from "node:zlib";

import { sealedBytesMax } from "#formats/container.ts";

/**
 * Between the levels 1 and 2 of zstd: on programs and libraries 2 % larger than level 2, in 15 %
 * less time.
 */
export const frameCompression = {
  // Room for any result: mostly one piece, with no copy to join several.
  chunkSize: sealedBytesMax,
  params: {
    [constants.ZSTD_c_compressionLevel]: 1,
    [constants.ZSTD_c_windowLog]: 19,
    [constants.ZSTD_c_hashLog]: 14,
    [constants.ZSTD_c_minMatch]: 6,
    [constants.ZSTD_c_checksumFlag]: 0,
    [constants.ZSTD_c_contentSizeFlag]: 1,
  },
} as const satisfies ZstdOptions;
