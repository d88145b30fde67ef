/**
 * Pages of the local index cache: 4,064 bytes of records, then what proves them.
 *
 * Trailer: page number (4), zero (4), first 16 bytes of the segment's name, zero (4), CRC-32 of the
 * 4,092 bytes before it (4). Numbers are in the machine's own order, little-endian everywhere that
 * Node runs; a cache from another kind of machine fails its checksum and is built anew.
 */
import { crc32 } from "node:zlib";

import { asBuffer } from "#base/bytes.ts";

/** Bytes of a page of a cache file. */
export const cachePageBytes = 4096;
/** Bytes of records in a page. */
export const cachePayloadBytes = 4064;

const crcAt = cachePageBytes - 4;
const nameAt = cachePayloadBytes + 8;
const namePrefixBytes = 16;

/** Which page a page is. */
export interface CachePageIdentity {
  /** The segment's name, 32 bytes. */
  readonly name: Uint8Array;
  readonly page: number;
}

/** Writes the trailer of a page. `page` is 4,096 bytes. */
export function sealCachePage(bytes: Uint8Array, identity: CachePageIdentity): void {
  const page = asBuffer(bytes);
  page.writeUInt32LE(identity.page, cachePayloadBytes);
  page.set(identity.name.subarray(0, namePrefixBytes), nameAt);
  page.writeUInt32LE(crc32(page.subarray(0, crcAt)), crcAt);
}

/** Whether `bytes` are that very page, undamaged. */
export function isCachePage(bytes: Uint8Array, identity: CachePageIdentity): boolean {
  const page = asBuffer(bytes);
  return (
    page.byteLength === cachePageBytes &&
    page.readUInt32LE(crcAt) === crc32(page.subarray(0, crcAt)) &&
    page.readUInt32LE(cachePayloadBytes) === identity.page &&
    page.compare(identity.name, 0, namePrefixBytes, nameAt, nameAt + namePrefixBytes) === 0
  );
}
