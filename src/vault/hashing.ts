/**
 * Ids of blocks and nodes, and the window checksum; docs/design/vault-format.md §3.
 */
import { createCipheriv, createHash, createSecretKey, type KeyObject } from "node:crypto";

import { Blake3Hasher } from "@napi-rs/blake-hash";

import { assert } from "#base/assert.ts";
import { asBuffer } from "#base/bytes.ts";
import { idBytes, pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";

/** Bytes of a window checksum. */
export const checksumBytes = 16;

const nonce = new Uint8Array(12);
/** Keys as node:crypto wants them: given bytes, it makes one at each call, which takes 20 µs. */
const keyObjects = new WeakMap<Uint8Array, KeyObject>();
const zeroTags = new Map<string, Uint8Array[]>();
const zeros = new Uint8Array(windowBytes);

/** The id of content under a block-id or node-id key: 24 bytes of keyed BLAKE3. */
export function computeId(key: Uint8Array, content: Uint8Array): Uint8Array {
  const digest = Blake3Hasher.newKeyed(asBuffer(key)).update(asBuffer(content)).digestBuffer();
  return new Uint8Array(digest.buffer, digest.byteOffset, idBytes);
}

/** The name of a finished object: SHA-256 of all of it, 32 bytes. */
export function computeName(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(createHash("sha256").update(bytes).digest());
}

/** The checksum of a whole window of 256 KiB; 16 bytes. */
export function computeWindowChecksum(key: Uint8Array, window: Uint8Array): Uint8Array {
  assert(window.byteLength === windowBytes, "a checksum covers a whole window");
  return gmac(key, window);
}

/**
 * What to XOR into a window's checksum when the pages from `firstPage` on changed by
 * `difference` (old XOR new, a whole number of pages, at most to the window's end).
 *
 * The tag is linear over XOR for texts of one length, and leading zeros add nothing to it, so only
 * the bytes from the first changed page to the window's end are hashed.
 */
export function computeChecksumDelta(
  key: Uint8Array,
  firstPage: number,
  differenceToEnd: Uint8Array,
): Uint8Array {
  const pages = windowPages - firstPage;
  assert(differenceToEnd.byteLength === pages * pageBytes, "a difference reaches the window's end");
  return xor(gmac(key, differenceToEnd), zeroTag(key, pages));
}

/** `a` XOR `b`, both 16 bytes, in a new array. */
export function xorChecksums(a: Uint8Array, b: Uint8Array): Uint8Array {
  return xor(a, b);
}

/** The checksum of a window of zeros, which a map leaf does not store. */
export function zeroWindowChecksum(key: Uint8Array): Uint8Array {
  return zeroTag(key, windowPages);
}

function zeroTag(key: Uint8Array, pages: number): Uint8Array {
  const name = asBuffer(key).toString("latin1");
  let tags = zeroTags.get(name);
  if (tags === undefined) {
    tags = [];
    for (let count = 0; count <= windowPages; count++) {
      tags.push(gmac(key, zeros.subarray(0, count * pageBytes)));
    }
    zeroTags.clear();
    zeroTags.set(name, tags);
  }
  const tag = tags[pages];
  assert(tag !== undefined, "a window has 64 pages");
  return tag;
}

function gmac(key: Uint8Array, text: Uint8Array): Uint8Array {
  const cipher = createCipheriv("aes-256-gcm", keyObject(key), nonce);
  cipher.setAAD(text);
  cipher.final();
  return cipher.getAuthTag();
}

function keyObject(key: Uint8Array): KeyObject {
  let object = keyObjects.get(key);
  if (object === undefined) {
    object = createSecretKey(key);
    keyObjects.set(key, object);
  }
  return object;
}

function xor(a: Uint8Array, b: Uint8Array): Uint8Array {
  assert(a.byteLength === checksumBytes && b.byteLength === checksumBytes, "checksums of 16 bytes");
  const result = new Uint8Array(checksumBytes);
  for (let at = 0; at < checksumBytes; at++) result[at] = (a[at] ?? 0) ^ (b[at] ?? 0);
  return result;
}
