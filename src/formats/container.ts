/**
 * Layout of a container: header, frames, trailer; docs/design/vault-format.md §4.
 *
 * Pure bytes: sealing and opening of frames is the vault's.
 */
import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { frameBytesMax } from "#formats/geometry.ts";

/** Sizes of the parts that have one; §4 of the format. */
export const containerHeaderBytes = 64;
export const frameHeaderBytes = 16;
export const frameTagBytes = 16;
export const trailerBytes = 16;
/** Most ciphertext a frame may hold: zstd may grow what does not compress. */
export const sealedBytesMax = frameBytesMax + 64 * 1024;
/** Number of the first frame of a footer; content is numbered from 0. */
export const footerFrameStart = 2 ** 31;
/** Bytes a frame takes beside its ciphertext. */
export const frameOverheadBytes = frameHeaderBytes + frameTagBytes;

const headerMagic = Buffer.from("KLUISV1\n", "latin1");
const trailerMagic = Buffer.from("KLUISEND", "latin1");
const formatVersion = 1;

/** The header of a container. */
export interface ContainerHeader {
  /** 1 pack, 2 map pack, 3 index segment, 4 manifest, 5 tombstone, 6 control record. */
  readonly typeByte: number;
  readonly epoch: number;
  /** 32 bytes. */
  readonly salt: Uint8Array;
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
}

/** The header of a frame. */
export interface FrameHeader {
  readonly sealedBytes: number;
  readonly plainBytes: number;
  readonly frame: number;
  readonly kind: "content" | "footer";
  readonly codec: FrameCodec;
}

/** How a frame's plaintext was packed before it was sealed. */
export type FrameCodec = "stored" | "zstd";

/** The 64 bytes of a header. */
export function encodeContainerHeader(header: ContainerHeader): Uint8Array {
  assert(header.salt.byteLength === 32 && header.vaultId.byteLength === 16, "salt 32 B, id 16 B");
  const bytes = Buffer.alloc(containerHeaderBytes);
  headerMagic.copy(bytes, 0);
  bytes[8] = header.typeByte;
  bytes[9] = formatVersion;
  bytes.writeUInt32LE(header.epoch, 12);
  bytes.set(header.salt, 16);
  bytes.set(header.vaultId, 48);
  return bytes;
}

/** Parses the first 64 bytes of an object; ObjectCorrupt, or StoreFormatNewer for a later version. */
export function parseContainerHeader(bytes: Uint8Array, objectName: string): ContainerHeader {
  const view = viewOf(bytes);
  if (bytes.byteLength < containerHeaderBytes || view.compare(headerMagic, 0, 8, 0, 8) !== 0) {
    throw corrupt(objectName, "it does not start like a container");
  }
  const version = view.readUInt8(9);
  if (version > formatVersion) {
    throw new KluisError(
      "StoreFormatNewer",
      `Cannot read "${objectName}": its format version is ${version}, this Kluis knows ${formatVersion}`,
    );
  }
  const typeByte = view.readUInt8(8);
  if (version !== formatVersion || typeByte < 1 || typeByte > 6 || view.readUInt16LE(10) !== 0) {
    throw corrupt(objectName, "its header is not valid");
  }
  return {
    typeByte,
    epoch: view.readUInt32LE(12),
    salt: Uint8Array.prototype.slice.call(bytes, 16, 48),
    vaultId: Uint8Array.prototype.slice.call(bytes, 48, 64),
  };
}

/** Writes the 16 bytes of a frame header into `target` at `at`. */
export function writeFrameHeader(target: Uint8Array, at: number, header: FrameHeader): void {
  const view = viewOf(target);
  view.writeUInt32LE(header.sealedBytes, at);
  view.writeUInt32LE(header.plainBytes, at + 4);
  view.writeUInt32LE(header.frame, at + 8);
  view.writeUInt8(header.kind === "content" ? 1 : 2, at + 12);
  view.writeUInt8(header.codec === "stored" ? 0 : 1, at + 13);
  view.writeUInt16LE(0, at + 14);
}

/** Parses a frame header at `at`; ObjectCorrupt where it breaks a bound. */
export function parseFrameHeader(bytes: Uint8Array, at: number, objectName: string): FrameHeader {
  if (at + frameHeaderBytes > bytes.byteLength) throw corrupt(objectName, "a frame is cut off");
  const view = viewOf(bytes);
  const sealedBytes = view.readUInt32LE(at);
  const plainBytes = view.readUInt32LE(at + 4);
  const kind = view.readUInt8(at + 12);
  const codec = view.readUInt8(at + 13);
  const valid =
    sealedBytes >= 1 &&
    sealedBytes <= sealedBytesMax &&
    plainBytes >= 1 &&
    plainBytes <= frameBytesMax &&
    (kind === 1 || kind === 2) &&
    codec <= 1 &&
    (codec === 1 || sealedBytes === plainBytes) &&
    view.readUInt16LE(at + 14) === 0;
  if (!valid) throw corrupt(objectName, `the frame header at ${at} is not valid`);
  return {
    sealedBytes,
    plainBytes,
    frame: view.readUInt32LE(at + 8),
    kind: kind === 1 ? "content" : "footer",
    codec: codec === 0 ? "stored" : "zstd",
  };
}

/** The 16 bytes of a trailer; `footerOffset` is 0 where there is no footer. */
export function encodeTrailer(footerOffset: number): Uint8Array {
  const bytes = Buffer.alloc(trailerBytes);
  bytes.writeBigUInt64LE(BigInt(footerOffset), 0);
  trailerMagic.copy(bytes, 8);
  return bytes;
}

/** The footer's offset from the last 16 bytes of an object of `objectBytes`; 0 for none. */
export function parseTrailer(trailer: Uint8Array, objectBytes: number, objectName: string): number {
  const view = viewOf(trailer);
  if (trailer.byteLength !== trailerBytes || view.compare(trailerMagic, 0, 8, 8, 16) !== 0) {
    throw corrupt(objectName, "it does not end like a container");
  }
  const offset = view.readBigUInt64LE(0);
  const last = BigInt(objectBytes - trailerBytes);
  if (offset !== 0n && (offset < BigInt(containerHeaderBytes) || offset >= last)) {
    throw corrupt(objectName, "its footer lies outside of it");
  }
  return Number(offset);
}

/** The error for a container that is out of form. */
export function corrupt(objectName: string, reason: string): KluisError {
  return new KluisError("ObjectCorrupt", `Cannot read "${objectName}": ${reason}`, {
    details: { object: objectName },
  });
}

function viewOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
