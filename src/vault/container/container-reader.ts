/** Reads whole containers: checks name, header, every frame and the trailer. */
import { createHash } from "node:crypto";

import { bytesEqual, concatBytes, toHex } from "#base/bytes.ts";
import {
  containerHeaderBytes,
  corrupt,
  encodeContainerHeader,
  type FrameHeader,
  frameHeaderBytes,
  frameOverheadBytes,
  parseContainerHeader,
  parseFrameHeader,
  parseTrailer,
  trailerBytes,
} from "#formats/container.ts";
import { type ContainerSeal, openFrame } from "#vault/container/frame.ts";
import {
  containerTypes,
  type ContainerType,
  deriveContainerKey,
  type VaultKeys,
} from "#vault/keys/vault-keys.ts";

/** A container as read: its plain content and footer, and where its frames lie. */
export interface OpenedContainer {
  readonly epoch: number;
  readonly salt: Uint8Array;
  /** Plaintext of all content frames, one after the other. Empty where `content` was not asked for. */
  readonly content: Uint8Array;
  /** Plaintext of all footer frames; empty where there is none. */
  readonly footer: Uint8Array;
  readonly frames: readonly FrameHeader[];
}

/** What opens the frames of a container that an index names. */
export function sealOf(
  keys: VaultKeys,
  container: { readonly type: ContainerType; readonly epoch: number; readonly salt: Uint8Array },
): ContainerSeal {
  const header = encodeContainerHeader({
    typeByte: containerTypes[container.type],
    epoch: container.epoch,
    salt: container.salt,
    vaultId: keys.vaultId,
  });
  return { key: deriveContainerKey(keys, container), header };
}

/** Throws ObjectCorrupt (never) unless `bytes` hash to `name`, 32 bytes. Needs no key. */
export function assertContentName(bytes: Uint8Array, name: Uint8Array, objectName: string): void {
  const actual = createHash("sha256").update(bytes).digest();
  if (!bytesEqual(actual, name)) {
    throw corrupt(objectName, `its content hashes to ${toHex(actual)}, not to its name`);
  }
}

/**
 * Opens a whole container of the expected type.
 *
 * @param options.footerOnly Opens only footer frames, for rebuilding an index from a pack.
 * @throws {KluisError} ObjectCorrupt (never), KeyWrong (after-change), StoreFormatNewer.
 */
export function openContainer(
  keys: VaultKeys,
  object: { readonly name: string; readonly bytes: Uint8Array; readonly type: ContainerType },
  options: { readonly footerOnly?: boolean } = {},
): OpenedContainer {
  const { bytes, name } = object;
  const header = parseContainerHeader(bytes, name);
  if (header.typeByte !== containerTypes[object.type]) {
    throw corrupt(name, `it is a container of type ${header.typeByte}, not a ${object.type}`);
  }
  if (!bytesEqual(header.vaultId, keys.vaultId)) {
    throw corrupt(name, "it belongs to another vault");
  }
  if (bytes.byteLength < containerHeaderBytes + trailerBytes) throw corrupt(name, "it is cut off");
  const framesEnd = bytes.byteLength - trailerBytes;
  const footerOffset = parseTrailer(bytes.subarray(framesEnd), bytes.byteLength, name);
  const seal = sealOf(keys, { type: object.type, epoch: header.epoch, salt: header.salt });
  const frames: FrameHeader[] = [];
  const content: Uint8Array[] = [];
  const footer: Uint8Array[] = [];
  let at = containerHeaderBytes;
  while (at < framesEnd) {
    const frame = parseFrameHeader(bytes, at, name);
    const end = at + frame.sealedBytes + frameOverheadBytes;
    const isFooter = footerOffset !== 0 && at >= footerOffset;
    const isInPlace = end <= framesEnd && isFooter === (frame.kind === "footer");
    if (!isInPlace) throw corrupt(name, `the frame at ${at} is out of place`);
    frames.push(frame);
    if (isFooter || options.footerOnly !== true) {
      const plain = openFrame(seal, frame, bytes.subarray(at, end), name);
      (isFooter ? footer : content).push(plain);
    }
    at = end;
  }
  return {
    epoch: header.epoch,
    salt: header.salt,
    content: concatBytes(content),
    footer: concatBytes(footer),
    frames,
  };
}

/** The frame at the start of `bytes`, opened; for frames fetched one by one by an index. */
export function openFetchedFrame(
  seal: ContainerSeal,
  bytes: Uint8Array,
  expected: { readonly sealedBytes: number; readonly plainBytes: number },
  objectName: string,
): Uint8Array {
  if (bytes.byteLength < frameHeaderBytes) throw corrupt(objectName, "a frame is cut off");
  const header = parseFrameHeader(bytes, 0, objectName);
  const sealedBytes = header.sealedBytes + frameOverheadBytes;
  if (sealedBytes !== expected.sealedBytes || header.plainBytes !== expected.plainBytes) {
    throw corrupt(objectName, "a frame has another length than the index names");
  }
  return openFrame(seal, header, bytes, objectName);
}
