/** Reads whole containers: checks name, header, every frame and the trailer. */
import { createHash } from "node:crypto";

import { bytesEqual, concatBytes, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import {
  type ContainerHeader,
  containerHeaderBytes,
  corrupt,
  encodeContainerHeader,
  footerFrameStart,
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
import { containerPlainBytesMax } from "#vault/limits.ts";

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
 * Opens a whole container of the expected type, of at most {@link containerPlainBytesMax} of plaintext.
 *
 * Frames that were left out at the end are not noticed here but by who parses the text: no text of
 * ours is the start of another.
 *
 * @param options.footerOnly Opens only footer frames, for rebuilding an index from a pack.
 * @throws {KluisError} ObjectCorrupt (never), KeyWrong (after-change), StoreFormatNewer.
 */
export function openContainer(
  keys: VaultKeys,
  object: { readonly name: string; readonly bytes: Uint8Array; readonly type: ContainerType },
  options: { readonly footerOnly?: boolean } = {},
): OpenedContainer {
  const { name, type } = object;
  const { epoch, salt } = parseOwnHeader(keys, object);
  const seal = sealOf(keys, { type, epoch, salt });
  const frames: FrameHeader[] = [];
  const content: Uint8Array[] = [];
  const footer: Uint8Array[] = [];
  let plainBytes = 0;
  for (const { header, sealed } of cutFrames(object)) {
    const isFooter = header.kind === "footer";
    frames.push(header);
    if (!isFooter && options.footerOnly === true) continue;
    plainBytes += header.plainBytes;
    if (plainBytes > containerPlainBytesMax) throw corrupt(name, "it holds too much");
    (isFooter ? footer : content).push(openFrame(seal, header, sealed, name));
  }
  assertNumbers(frames, object);
  return { epoch, salt, content: concatBytes(content), footer: concatBytes(footer), frames };
}

/** The header of a container of this vault and of that type, under a key that is at hand. */
function parseOwnHeader(
  keys: VaultKeys,
  object: { readonly name: string; readonly bytes: Uint8Array; readonly type: ContainerType },
): ContainerHeader {
  const { name, type } = object;
  const header = parseContainerHeader(object.bytes, name);
  if (header.typeByte !== containerTypes[type]) {
    throw corrupt(name, `it is a container of type ${header.typeByte}, not a ${type}`);
  }
  if (!bytesEqual(header.vaultId, keys.vaultId)) {
    throw corrupt(name, "it belongs to another vault");
  }
  if (keys.epochs.some(({ epoch }) => epoch === header.epoch)) return header;
  throw new KluisError(
    "KeyWrong",
    `Cannot read "${name}": it was sealed under key epoch ${header.epoch}, which this key does not hold`,
    { details: { object: name } },
  );
}

/** The frames between header and trailer, where the trailer says that content and footer lie. */
function* cutFrames(object: {
  readonly name: string;
  readonly bytes: Uint8Array;
}): Generator<{ readonly header: FrameHeader; readonly sealed: Uint8Array }> {
  const { bytes, name } = object;
  const framesEnd = bytes.byteLength - trailerBytes;
  if (framesEnd < containerHeaderBytes) throw corrupt(name, "it is cut off");
  const footerOffset = parseTrailer(bytes.subarray(framesEnd), bytes.byteLength, name);
  let footerStart = 0;
  for (let at = containerHeaderBytes; at < framesEnd;) {
    const header = parseFrameHeader(bytes, at, name);
    const end = at + header.sealedBytes + frameOverheadBytes;
    if (end > framesEnd) throw corrupt(name, `the frame at ${at} is cut off`);
    if (header.kind === "footer" && footerStart === 0) footerStart = at;
    if (header.kind === "content" && footerStart !== 0) {
      throw corrupt(name, `the frame at ${at} is out of place`);
    }
    yield { header, sealed: bytes.subarray(at, end) };
    at = end;
  }
  if (footerStart !== footerOffset) throw corrupt(name, "its footer is not where its end says");
}

/**
 * Content is numbered from 0 in order, and so is the footer, from {@link footerFrameStart}. Only
 * the content of a data pack may have gaps and swap places, because threads seal it side by side:
 * it consists of blocks with ids, and an index says where they lie.
 */
function assertNumbers(
  frames: readonly FrameHeader[],
  object: { readonly name: string; readonly type: ContainerType },
): void {
  const seen = new Set<number>();
  let footers = 0;
  for (const [at, { frame, kind }] of frames.entries()) {
    const isNew = frame < footerFrameStart && !seen.has(frame);
    const isContent = object.type === "pack" ? isNew : frame === at;
    const isInPlace = kind === "footer" ? frame === footerFrameStart + footers++ : isContent;
    if (!isInPlace) {
      throw corrupt(object.name, `frame ${frame} is not where it was written`);
    }
    seen.add(frame);
  }
}

/** The frame at the start of `bytes`, opened; for frames fetched one by one by an index. */
export function openFetchedFrame(
  seal: ContainerSeal,
  bytes: Uint8Array,
  expected: { readonly sealedBytes: number; readonly plainBytes: number },
  objectName: string,
): Uint8Array {
  return openFrame(seal, parseFetchedHeader(bytes, expected, objectName), bytes, objectName);
}

/** The header of a frame that was fetched, with the lengths that the index names. ObjectCorrupt (never). */
export function parseFetchedHeader(
  bytes: Uint8Array,
  expected: { readonly sealedBytes: number; readonly plainBytes: number },
  objectName: string,
): FrameHeader {
  if (bytes.byteLength < frameHeaderBytes) throw corrupt(objectName, "a frame is cut off");
  const header = parseFrameHeader(bytes, 0, objectName);
  const sealedBytes = header.sealedBytes + frameOverheadBytes;
  if (sealedBytes !== expected.sealedBytes || header.plainBytes !== expected.plainBytes) {
    throw corrupt(objectName, "a frame has another length than the index names");
  }
  return header;
}
