/** Sealing and opening of frames: zstd, then AES-256-GCM; docs/design/vault-format.md §4. */
import { createCipheriv, createDecipheriv, type KeyObject } from "node:crypto";

import { assert } from "#base/assert.ts";
import { freeBuffer } from "#base/free-buffer.ts";
import {
  corrupt,
  type FrameHeader,
  frameHeaderBytes,
  frameOverheadBytes,
  frameTagBytes,
  writeFrameHeader,
} from "#formats/container.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import { Compressor } from "./compressor.ts";
import { Decompressor } from "./decompressor.ts";

/** Compressed frames must save at least 1/64, or they are stored: decompressing costs restores. */
const savingShare = 64;
/** Of this thread; made with the first frame that is compressed. */
let compressor: Compressor | undefined;
/** Of this thread; made with the first frame that is decompressed. */
let decompressor: Decompressor | undefined;

/** What seals the frames of one container: its key and its 64-byte header. */
export interface ContainerSeal {
  readonly key: KeyObject;
  readonly header: Uint8Array;
}

/** How a frame is to be sealed. */
export interface FrameOptions {
  /** Its number, which no other frame of the container has. */
  readonly frame: number;
  readonly kind: FrameHeader["kind"];
  readonly compress: boolean;
}

/**
 * Seals `plain` as frame number `frame` into `target` at `at`.
 *
 * @param plain 1 byte to 1 MiB, contiguous.
 * @returns The frame's header; the frame takes `sealedBytes` + 32 bytes of `target`.
 */
export function sealFrame(
  seal: ContainerSeal,
  plain: Uint8Array,
  options: FrameOptions,
  place: FramePlace,
): FrameHeader {
  assert(plain.byteLength >= 1 && plain.byteLength <= frameBytesMax, "a frame holds 1 B to 1 MiB");
  if (options.compress) compressor ??= new Compressor();
  const packed = options.compress ? compressor?.compress(plain) : undefined;
  const largest = plain.byteLength - plain.byteLength / savingShare;
  const pays = packed !== undefined && packed.byteLength <= largest;
  const body = pays ? packed : plain;
  const header: FrameHeader = {
    sealedBytes: body.byteLength,
    plainBytes: plain.byteLength,
    frame: options.frame,
    kind: options.kind,
    codec: pays ? "zstd" : "stored",
  };
  encrypt(seal, header, body, place);
  return header;
}

/** Where a frame goes. */
export interface FramePlace {
  /** Has room for the plaintext and {@link frameOverheadBytes}. */
  readonly target: Uint8Array;
  readonly at: number;
}

/** A frame as it was fetched from some container. */
export interface FetchedFrame {
  readonly seal: ContainerSeal;
  readonly header: FrameHeader;
  /** From its header to its tag. */
  readonly bytes: Uint8Array;
  readonly objectName: string;
}

/**
 * Seals what another container's frame holds as frame number `frame`, compressed as it was: what it
 * decompresses to is not looked at. ObjectCorrupt (never) where its tag does not match.
 *
 * @returns The frame's header; see {@link sealFrame}.
 */
export function resealFrame(
  from: FetchedFrame,
  to: { readonly seal: ContainerSeal; readonly frame: number },
  place: FramePlace,
): FrameHeader {
  const body = decrypt(from.seal, from.header, from.bytes, from.objectName);
  const header: FrameHeader = { ...from.header, frame: to.frame };
  encrypt(to.seal, header, body, place);
  freeBuffer(body);
  return header;
}

function encrypt(
  seal: ContainerSeal,
  header: FrameHeader,
  body: Uint8Array,
  { target, at }: FramePlace,
): void {
  assert(at + body.byteLength + frameOverheadBytes <= target.byteLength, "the frame has room");
  writeFrameHeader(target, at, header);
  const cipher = createCipheriv("aes-256-gcm", seal.key, frameNonce(header.frame));
  cipher.setAAD(seal.header);
  cipher.setAAD(target.subarray(at, at + frameHeaderBytes));
  const ciphertext = cipher.update(body);
  target.set(ciphertext, at + frameHeaderBytes);
  cipher.final();
  target.set(cipher.getAuthTag(), at + frameHeaderBytes + header.sealedBytes);
  freeBuffer(ciphertext);
}

/**
 * Opens one frame into memory of its own; see {@link openFrameInto}.
 *
 * @returns The plaintext, owned by the caller, who may free it.
 */
export function openFrame(
  seal: ContainerSeal,
  header: FrameHeader,
  frame: Uint8Array,
  objectName: string,
): Uint8Array {
  if (header.codec === "stored") return decrypt(seal, header, frame, objectName);
  // A byte more than it takes tells whether the frame has an end.
  const target = Buffer.allocUnsafeSlow(header.plainBytes + 1);
  openFrameInto(seal, header, frame, { target, objectName });
  return target.subarray(0, header.plainBytes);
}

/**
 * Opens one frame: checks the tag over header and ciphertext, then decompresses to exactly the
 * length that the header names. ObjectCorrupt (never) where anything is off.
 *
 * @param frame The frame's bytes, from its header to its tag, whose header was parsed to `header`.
 * @param place.target Has room for what the header names, and may lie in shared memory; whatever more
 *   it has, and all of it after an error, may hold anything.
 */
export function openFrameInto(
  seal: ContainerSeal,
  header: FrameHeader,
  frame: Uint8Array,
  place: { readonly target: Uint8Array; readonly objectName: string },
): void {
  const body = decrypt(seal, header, frame, place.objectName);
  if (header.codec === "stored") place.target.set(body);
  else decompress(body, header, place);
  freeBuffer(body);
}

/** What a frame seals, still compressed. */
function decrypt(
  seal: ContainerSeal,
  header: FrameHeader,
  frame: Uint8Array,
  objectName: string,
): Uint8Array {
  if (frame.byteLength !== header.sealedBytes + frameOverheadBytes) {
    throw corrupt(objectName, `frame ${header.frame} is cut off`);
  }
  const bodyEnd = frameHeaderBytes + header.sealedBytes;
  const decipher = createDecipheriv("aes-256-gcm", seal.key, frameNonce(header.frame), {
    authTagLength: frameTagBytes,
  });
  decipher.setAAD(seal.header);
  decipher.setAAD(frame.subarray(0, frameHeaderBytes));
  decipher.setAuthTag(frame.subarray(bodyEnd, bodyEnd + frameTagBytes));
  const body = decipher.update(frame.subarray(frameHeaderBytes, bodyEnd));
  try {
    decipher.final();
  } catch (cause) {
    throw tagMismatch(objectName, header.frame, cause);
  }
  return body;
}

function decompress(
  body: Uint8Array,
  header: FrameHeader,
  place: { readonly target: Uint8Array; readonly objectName: string },
): void {
  decompressor ??= new Decompressor();
  try {
    decompressor.decompress(body, place.target, header.plainBytes);
  } catch (cause) {
    const error = corrupt(place.objectName, `frame ${header.frame} does not decompress`);
    error.cause = cause;
    throw error;
  }
}

function tagMismatch(objectName: string, frame: number, cause: unknown): Error {
  const error = corrupt(objectName, `frame ${frame} does not match its authentication tag`);
  error.cause = cause;
  return error;
}

function frameNonce(frame: number): Uint8Array {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32BE(frame, 8);
  return nonce;
}
