/**
 * Gives the memory of a buffer back at once.
 *
 * node:zlib and node:crypto return a new buffer for each call. Left to the garbage collector they
 * gather by the hundred megabytes, and V8 answers with one full collection after the other.
 */

/** Buffers up to this size may lie in a pool that Node shares among them. */
const pooledBytesMax = 64 * 1024;

/** Frees the memory of `bytes`, which is not used afterwards; small buffers are left to the collector. */
export function freeBuffer(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (buffer instanceof ArrayBuffer && buffer.byteLength > pooledBytesMax) buffer.transfer(0);
}
