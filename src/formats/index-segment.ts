/**
 * The index segment and the footer of a pack: which block or node lies where;
 * docs/design/vault-format.md §5.
 *
 * One content has one encoding; a parser rejects every other with ObjectCorrupt.
 */
import { assert } from "#base/assert.ts";
import { isZero, toHex } from "#base/bytes.ts";
import { ByteReader, ByteWriter } from "#formats/byte-stream.ts";
import {
  containerHeaderBytes,
  type FrameCodec,
  frameOverheadBytes,
  sealedBytesMax,
} from "#formats/container.ts";
import { blockBytesMax, frameBytesMax, idBytes } from "#formats/geometry.ts";

/** What a pack holds: blocks or map nodes. */
export type IndexPackType = "pack" | "mapPack";

/** One frame of a pack. */
export interface IndexFrame {
  /** With frame header and tag. The first frame starts at 64, each other where the last one ends. */
  readonly sealedBytes: number;
  readonly plainBytes: number;
  readonly codec: FrameCodec;
}

/** Where one block or node lies in a pack. */
export interface IndexEntry {
  /** 24 bytes. */
  readonly id: Uint8Array;
  /** Number of the frame in its pack. */
  readonly frame: number;
  /** In the plaintext of the frame. */
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** A pack's name and what opens it. */
export interface IndexPackHead {
  readonly type: IndexPackType;
  /** 32 bytes; zeros in a pack's own footer. */
  readonly name: Uint8Array;
  /** 32 bytes. */
  readonly salt: Uint8Array;
  readonly epoch: number;
}

/** One pack as its writer knows it. Entries stand in the order of the pack. */
export interface IndexPack extends IndexPackHead {
  readonly frames: readonly IndexFrame[];
  readonly entries: readonly IndexEntry[];
}

/** The same in columns: what parsing gives, with no object for each entry. */
export interface IndexPackColumns extends IndexPackHead {
  readonly frameCount: number;
  readonly sealedBytes: Uint32Array;
  readonly plainBytes: Uint32Array;
  /** 0 stored, 1 zstd. */
  readonly codecs: Uint8Array;
  readonly entryCount: number;
  /** 24 bytes each. */
  readonly ids: Uint8Array;
  readonly entryFrames: Uint32Array;
  readonly offsetsBytes: Uint32Array;
  readonly lengthsBytes: Uint32Array;
}

/** Largest index segment and footer, as plain bytes: no object of a store is larger. */
export const indexSegmentBytesMax = 64 * 1024 * 1024;
/** Largest pack: no object of a store is larger. */
export const indexedPackBytesMax = 64 * 1024 * 1024;

const nameBytes = 32;
const saltBytes = 32;
const epochMax = 2 ** 32 - 1;
/** Least bytes that a pack, a frame and an entry take: what bounds a count before it is believed. */
const packTextBytesMin = 1 + nameBytes + saltBytes + 3;
const frameTextBytesMin = 3;
const entryTextBytesMin = idBytes + 3;
const typeNames = [undefined, "pack", "mapPack"] as const;

/** Encodes `packs`, each of which has its own name; one alone may have zeros for its footer. */
export function encodeIndexSegment(packs: readonly IndexPack[]): Uint8Array {
  const writer = new ByteWriter(64 * 1024);
  writer.varint(packs.length);
  for (const pack of packs) writePack(writer, pack);
  assert(writer.length <= indexSegmentBytesMax, "an index segment has at most 64 MiB");
  return writer.finish();
}

/** Parses an index segment. Throws ObjectCorrupt (never); every count is bounded by the text. */
export function parseIndexSegment(bytes: Uint8Array): IndexPackColumns[] {
  const packs = parsePacks(bytes, "index segment");
  const names = new Set<string>();
  for (const pack of packs) {
    if (isZero(pack.name)) throw corrupt("a pack has no name");
    names.add(toHex(pack.name));
  }
  if (names.size !== packs.length) throw corrupt("it names a pack twice");
  return packs;
}

/** Parses the footer of the pack that is stored as `name`, 32 bytes. Throws ObjectCorrupt (never). */
export function parsePackFooter(bytes: Uint8Array, name: Uint8Array): IndexPackColumns {
  const [pack, ...others] = parsePacks(bytes, "pack footer");
  if (pack === undefined || others.length > 0) throw corrupt("a pack footer is not of one pack");
  if (!isZero(pack.name)) throw corrupt("a pack footer names a pack");
  return { ...pack, name };
}

/** The pack in columns, in new arrays. */
export function toIndexColumns(pack: IndexPack): IndexPackColumns {
  const columns = createColumns(pack, pack.frames.length, pack.entries.length);
  pack.frames.forEach((frame, at) => {
    columns.sealedBytes[at] = frame.sealedBytes;
    columns.plainBytes[at] = frame.plainBytes;
    columns.codecs[at] = frame.codec === "stored" ? 0 : 1;
  });
  pack.entries.forEach((entry, at) => {
    columns.ids.set(entry.id, at * idBytes);
    columns.entryFrames[at] = entry.frame;
    columns.offsetsBytes[at] = entry.offsetBytes;
    columns.lengthsBytes[at] = entry.lengthBytes;
  });
  return columns;
}

/** The pack as objects; ids share the bytes of the columns. */
export function fromIndexColumns(columns: IndexPackColumns): IndexPack {
  const { type, name, salt, epoch, ids } = columns;
  const frames = Array.from({ length: columns.frameCount }, (_, at) => ({
    sealedBytes: columns.sealedBytes[at] ?? 0,
    plainBytes: columns.plainBytes[at] ?? 0,
    codec: columns.codecs[at] === 0 ? ("stored" as const) : ("zstd" as const),
  }));
  const entries = Array.from({ length: columns.entryCount }, (_, at) => ({
    id: ids.subarray(at * idBytes, (at + 1) * idBytes),
    frame: columns.entryFrames[at] ?? 0,
    offsetBytes: columns.offsetsBytes[at] ?? 0,
    lengthBytes: columns.lengthsBytes[at] ?? 0,
  }));
  return { type, name, salt, epoch, frames, entries };
}

/** Empty columns for a pack. */
export function createColumns(
  head: IndexPackHead,
  frameCount: number,
  entryCount: number,
): IndexPackColumns {
  const { type, name, salt, epoch } = head;
  return {
    type,
    name,
    salt,
    epoch,
    frameCount,
    sealedBytes: new Uint32Array(frameCount),
    plainBytes: new Uint32Array(frameCount),
    codecs: new Uint8Array(frameCount),
    entryCount,
    ids: new Uint8Array(entryCount * idBytes),
    entryFrames: new Uint32Array(entryCount),
    offsetsBytes: new Uint32Array(entryCount),
    lengthsBytes: new Uint32Array(entryCount),
  };
}

function writePack(writer: ByteWriter, pack: IndexPack): void {
  assert(pack.name.byteLength === nameBytes, "a pack's name has 32 bytes");
  assert(pack.salt.byteLength === saltBytes, "a pack's salt has 32 bytes");
  assert(pack.epoch >= 1 && pack.epoch <= epochMax, "an epoch has 32 bits and is not 0");
  writer.u8(typeNames.indexOf(pack.type));
  writer.bytes(pack.name);
  writer.bytes(pack.salt);
  writer.varint(pack.epoch);
  writer.varint(pack.frames.length);
  let packBytes = containerHeaderBytes;
  for (const { sealedBytes, plainBytes, codec } of pack.frames) {
    const codecByte = codec === "stored" ? 0 : 1;
    packBytes += sealedBytes;
    const problem = explainFrame(sealedBytes, plainBytes, codecByte);
    assert(problem === undefined, `${problem ?? ""} in what is to be encoded`);
    writer.varint(sealedBytes);
    writer.varint(plainBytes);
    writer.u8(codecByte);
  }
  assert(packBytes <= indexedPackBytesMax, "a pack has at most 64 MiB");
  writer.varint(pack.entries.length);
  writeEntries(writer, pack);
}

function writeEntries(writer: ByteWriter, pack: IndexPack): void {
  const lengthMax = entryBytesMax(pack.type);
  let lastFrame = 0;
  let end = 0;
  for (const { id, frame, offsetBytes, lengthBytes } of pack.entries) {
    const plainBytes = pack.frames[frame]?.plainBytes ?? 0;
    assert(id.byteLength === idBytes, "an id has 24 bytes");
    assert(frame >= lastFrame, "entries stand in the order of the pack");
    assert(frame > lastFrame || offsetBytes >= end, "entries of a frame do not overlap");
    assert(lengthBytes > 0 && lengthBytes <= lengthMax, "an entry has a length in bounds");
    assert(offsetBytes + lengthBytes <= plainBytes, "an entry lies in its frame");
    writer.bytes(id);
    writer.varint(frame);
    writer.varint(offsetBytes);
    writer.varint(lengthBytes);
    lastFrame = frame;
    end = offsetBytes + lengthBytes;
  }
}

function parsePacks(bytes: Uint8Array, what: string): IndexPackColumns[] {
  const reader = new ByteReader(bytes, what);
  if (bytes.byteLength > indexSegmentBytesMax) throw reader.corrupt("it is too long");
  const packCount = reader.varint(Math.floor(reader.remaining / packTextBytesMin));
  const packs: IndexPackColumns[] = [];
  for (let at = 0; at < packCount; at++) packs.push(parsePack(reader));
  reader.end();
  return packs;
}

function parsePack(reader: ByteReader): IndexPackColumns {
  const type = typeNames[reader.u8()];
  if (type === undefined) throw reader.corrupt("a pack is of no known type");
  const name = reader.bytes(nameBytes).slice();
  const salt = reader.bytes(saltBytes).slice();
  const epoch = reader.varint(epochMax);
  if (epoch === 0) throw reader.corrupt("a pack has epoch 0");
  const frames = parseFrames(reader, { type, name, salt, epoch });
  const entryCount = reader.varint(Math.floor(reader.remaining / entryTextBytesMin));
  const pack = {
    ...frames,
    entryCount,
    ids: new Uint8Array(entryCount * idBytes),
    entryFrames: new Uint32Array(entryCount),
    offsetsBytes: new Uint32Array(entryCount),
    lengthsBytes: new Uint32Array(entryCount),
  };
  parseEntries(reader, pack);
  return pack;
}

function parseFrames(reader: ByteReader, head: IndexPackHead): IndexPackColumns {
  const frameCount = reader.varint(Math.floor(reader.remaining / frameTextBytesMin));
  const pack = createColumns(head, frameCount, 0);
  let packBytes = containerHeaderBytes;
  for (let at = 0; at < frameCount; at++) {
    const sealedBytes = reader.varint(sealedBytesMax + frameOverheadBytes);
    const plainBytes = reader.varint(frameBytesMax);
    const codec = reader.u8();
    const problem = explainFrame(sealedBytes, plainBytes, codec);
    if (problem !== undefined) throw reader.corrupt(problem);
    packBytes += sealedBytes;
    pack.sealedBytes[at] = sealedBytes;
    pack.plainBytes[at] = plainBytes;
    pack.codecs[at] = codec;
  }
  if (packBytes > indexedPackBytesMax) throw reader.corrupt("a pack is too long");
  return pack;
}

function parseEntries(reader: ByteReader, pack: IndexPackColumns): void {
  const { entryCount, frameCount, ids, entryFrames, offsetsBytes, lengthsBytes } = pack;
  if (entryCount > 0 && frameCount === 0) throw reader.corrupt("a pack has entries but no frame");
  const lengthMax = entryBytesMax(pack.type);
  let lastFrame = 0;
  let end = 0;
  for (let at = 0; at < entryCount; at++) {
    ids.set(reader.bytes(idBytes), at * idBytes);
    const frame = reader.varint(frameCount - 1);
    const plainBytes = pack.plainBytes[frame] ?? 0;
    const offsetBytes = reader.varint(plainBytes);
    const lengthBytes = reader.varint(Math.min(lengthMax, plainBytes - offsetBytes));
    if (lengthBytes === 0) throw reader.corrupt("an entry is empty");
    if (frame < lastFrame || (frame === lastFrame && offsetBytes < end)) {
      throw reader.corrupt("entries are out of order");
    }
    entryFrames[at] = frame;
    offsetsBytes[at] = offsetBytes;
    lengthsBytes[at] = lengthBytes;
    lastFrame = frame;
    end = offsetBytes + lengthBytes;
  }
}

/** A block has a bound of its own; a node is only bounded by its frame. */
function entryBytesMax(type: IndexPackType): number {
  return type === "pack" ? blockBytesMax : frameBytesMax;
}

function explainFrame(sealed: number, plain: number, codec: number): string | undefined {
  const cipherBytes = sealed - frameOverheadBytes;
  if (codec > 1) return "a frame has no known codec";
  if (cipherBytes < 1 || cipherBytes > sealedBytesMax) return "a frame's sealed length is wrong";
  if (plain < 1 || plain > frameBytesMax) return "a frame's plain length is wrong";
  if (codec === 0 && plain !== cipherBytes) return "a stored frame has two lengths";
  return undefined;
}

function corrupt(reason: string): Error {
  return new ByteReader(new Uint8Array(0), "index segment").corrupt(reason);
}
