/**
 * Nodes of a disk's map; docs/design/vault-format.md §6.
 *
 * One content has exactly one encoding: encoders assert the canonical form, parsers reject every
 * other with ObjectCorrupt. Parsed ids and checksums are views of the bytes that were parsed.
 */
import { assert } from "#base/assert.ts";
import { asBuffer, bytesEqual } from "#base/bytes.ts";
import { ByteReader, ByteWriter } from "#formats/byte-stream.ts";
import {
  diskBytesMax,
  idBytes,
  leafBytes,
  leafWindows,
  nodeChildren,
  windowPages,
} from "#formats/geometry.ts";

/** A run of pages of a window that lie one after the other in one block, or are zeros. */
export interface Piece {
  /** 1 to 64. */
  readonly pages: number;
  /** Id of the block, 24 bytes; `undefined` for zeros. */
  readonly block: Uint8Array | undefined;
  /** Where the run starts in the block; 0 for zeros. */
  readonly offsetPages: number;
}

/** What a window that is not all zeros holds. */
export interface WindowMap {
  /** Keyed checksum of the whole window, 16 bytes. */
  readonly checksum: Uint8Array;
  /** In order, 64 pages together, at least one of them not zeros, joined where they can be. */
  readonly pieces: readonly Piece[];
}

/** The map of 8 windows, `undefined` where a window is all zeros; at least one is not. */
export interface Leaf {
  readonly windows: readonly (WindowMap | undefined)[];
}

/** A node of level 1 or above: the ids of 16 children, `undefined` where one is all zeros; at least one is not. */
export interface InnerNode {
  readonly level: number;
  readonly children: readonly (Uint8Array | undefined)[];
}

/** Level of the root of the largest disk. */
export const mapLevelMax = mapLevelOf(diskBytesMax);
/** Bytes of the checksum in a {@link WindowMap}. */
export const windowChecksumBytes = 16;
/** No encoded node is longer. */
export const mapNodeBytesMax = 4 + leafWindows * (windowPages * (idBytes + 4) + 1 + 16);

const leafTag = 1;
const innerTag = 2;
const what = "map node";

/** Level of the root of the map of a disk of `sizeBytes`: the least one that covers it. */
export function mapLevelOf(sizeBytes: number): number {
  let level = 0;
  for (let covered = leafBytes; covered < sizeBytes; covered *= nodeChildren) level++;
  return level;
}

/** Whether `next` goes on in its block where `piece` ends, so that the two must be one. */
export function isJoinable(piece: Piece, next: Piece): boolean {
  if (piece.block === undefined || next.block === undefined) return piece.block === next.block;
  if (next.offsetPages !== piece.offsetPages + piece.pages) return false;
  return piece.block === next.block || bytesEqual(piece.block, next.block);
}

/** The one encoding of `leaf`, which must be canonical. */
export function encodeLeaf(leaf: Leaf): Uint8Array {
  assert(leaf.windows.length === leafWindows, "a leaf covers 8 windows");
  const references = new Map<string, number>();
  const body = new ByteWriter();
  const blocks = new ByteWriter();
  for (const window of leaf.windows) {
    body.varint(window?.pieces.length ?? 0);
    if (window === undefined) continue;
    assertWindow(window);
    body.bytes(window.checksum);
    for (const piece of window.pieces) {
      body.varint(piece.pages);
      body.varint(referenceOf(piece.block, references, blocks));
      if (piece.block !== undefined) body.varint(piece.offsetPages);
    }
  }
  assert(references.size > 0, "a leaf of zeros is not stored");
  const writer = new ByteWriter(blocks.length + body.length + 4);
  writer.u8(leafTag);
  writer.u8(0);
  writer.varint(references.size);
  writer.bytes(blocks.finish());
  writer.bytes(body.finish());
  return writer.finish();
}

/** The leaf that `bytes` encode; ObjectCorrupt where they are not the one encoding of a leaf. */
export function parseLeaf(bytes: Uint8Array): Leaf {
  const reader = new ByteReader(bytes, what);
  if (bytes.byteLength > mapNodeBytesMax) throw reader.corrupt("it is too long");
  if (reader.u8() !== leafTag || reader.u8() !== 0) throw reader.corrupt("it is not a leaf");
  const blocks = readBlocks(reader);
  const windows: (WindowMap | undefined)[] = [];
  let used = 0;
  for (let index = 0; index < leafWindows; index++) {
    const count = reader.varint(windowPages);
    if (count === 0) {
      windows.push(undefined);
      continue;
    }
    const checksum = reader.bytes(windowChecksumBytes);
    const pieces: Piece[] = [];
    let pages = 0;
    let windowUsed = false;
    for (let at = 0; at < count; at++) {
      // The first use of the n-th block follows the first use of the one before it.
      const { piece, reference } = readPiece(reader, blocks, used + 1);
      used = Math.max(used, reference);
      windowUsed ||= reference > 0;
      pages += piece.pages;
      const last = pieces.at(-1);
      if (last !== undefined && isJoinable(last, piece)) {
        throw reader.corrupt("neighbouring pieces are not joined");
      }
      pieces.push(piece);
    }
    if (pages !== windowPages) throw reader.corrupt(`a window has ${pages} pages`);
    if (!windowUsed) throw reader.corrupt("a window of zeros has pieces");
    windows.push({ checksum, pieces });
  }
  if (used !== blocks.length) throw reader.corrupt("a block is not used");
  if (used === 0) throw reader.corrupt("a leaf is all zeros");
  reader.end();
  return { windows };
}

/** The one encoding of `node`, which must be canonical. */
export function encodeInner(node: InnerNode): Uint8Array {
  assert(node.children.length === nodeChildren, "an inner node has 16 children");
  assert(node.level >= 1 && node.level <= mapLevelMax, "the level of an inner node is 1 to 8");
  let bitmap = 0;
  for (const [index, child] of node.children.entries()) {
    if (child !== undefined) bitmap |= 1 << index;
  }
  assert(bitmap !== 0, "an inner node of zeros is not stored");
  const writer = new ByteWriter(4 + nodeChildren * idBytes);
  writer.u8(innerTag);
  writer.u8(node.level);
  writer.u16(bitmap);
  for (const child of node.children) {
    if (child === undefined) continue;
    assert(child.byteLength === idBytes, "an id has 24 bytes");
    writer.bytes(child);
  }
  return writer.finish();
}

/** The inner node that `bytes` encode; ObjectCorrupt where they are not the one encoding of one. */
export function parseInner(bytes: Uint8Array): InnerNode {
  const reader = new ByteReader(bytes, what);
  if (reader.u8() !== innerTag) throw reader.corrupt("it is not an inner node");
  const level = reader.u8();
  if (level < 1 || level > mapLevelMax) throw reader.corrupt(`its level is ${level}`);
  const bitmap = reader.u16();
  if (bitmap === 0) throw reader.corrupt("it has no children");
  const children: (Uint8Array | undefined)[] = [];
  for (let index = 0; index < nodeChildren; index++) {
    children.push((bitmap & (1 << index)) === 0 ? undefined : reader.bytes(idBytes));
  }
  reader.end();
  return { level, children };
}

/** Where the ids stand that a node refers to. */
export interface NodeReferences {
  readonly isLeaf: boolean;
  /** From the start of the node; the first id. */
  readonly offset: number;
  /** Behind the last id. */
  readonly end: number;
}

/**
 * Where the ids of a node stand: blocks of a leaf, children of an inner node. Checks no more of the
 * node than it needs; ObjectCorrupt where it is of no form.
 */
export function listNodeReferences(bytes: Uint8Array): NodeReferences {
  const reader = new ByteReader(bytes, what);
  const tag = reader.u8();
  let count = 0;
  if (tag === leafTag && reader.u8() === 0) {
    count = reader.varint(leafWindows * windowPages);
  } else if (tag === innerTag && reader.u8() > 0) {
    for (let bits = reader.u16(); bits > 0; bits >>>= 1) count += bits & 1;
  } else {
    throw reader.corrupt("it is neither leaf nor inner node");
  }
  const offset = bytes.byteLength - reader.remaining;
  reader.bytes(count * idBytes);
  return { isLeaf: tag === leafTag, offset, end: offset + count * idBytes };
}

function assertWindow(window: WindowMap): void {
  assert(window.checksum.byteLength === windowChecksumBytes, "a checksum has 16 bytes");
  let pages = 0;
  let last: Piece | undefined;
  for (const piece of window.pieces) {
    assert(Number.isInteger(piece.pages) && piece.pages > 0, "a piece has pages");
    assert(Number.isInteger(piece.offsetPages) && piece.offsetPages >= 0, "an offset is a number");
    assert(piece.offsetPages + piece.pages <= windowPages, "a piece lies in its block");
    assert(piece.block !== undefined || piece.offsetPages === 0, "zeros have no offset");
    assert(last === undefined || !isJoinable(last, piece), "neighbouring pieces are joined");
    pages += piece.pages;
    last = piece;
  }
  assert(pages === windowPages, "the pieces of a window have 64 pages together");
  assert(
    window.pieces.some((piece) => piece.block !== undefined),
    "a window of zeros has no map",
  );
}

/** The number by which the leaf names `block`; appends the block to `blocks` at its first use. */
function referenceOf(
  block: Uint8Array | undefined,
  references: Map<string, number>,
  blocks: ByteWriter,
): number {
  if (block === undefined) return 0;
  const name = asBuffer(block).toString("latin1");
  const known = references.get(name);
  if (known !== undefined) return known;
  assert(block.byteLength === idBytes, "an id has 24 bytes");
  blocks.bytes(block);
  references.set(name, references.size + 1);
  return references.size;
}

function readBlocks(reader: ByteReader): Uint8Array[] {
  const count = reader.varint(leafWindows * windowPages);
  const blocks: Uint8Array[] = [];
  const names = new Set<string>();
  for (let at = 0; at < count; at++) {
    const block = reader.bytes(idBytes);
    blocks.push(block);
    names.add(asBuffer(block).toString("latin1"));
  }
  if (names.size !== count) throw reader.corrupt("a block is listed twice");
  return blocks;
}

function readPiece(
  reader: ByteReader,
  blocks: readonly Uint8Array[],
  referenceMax: number,
): { piece: Piece; reference: number } {
  const pages = reader.varint(windowPages);
  if (pages === 0) throw reader.corrupt("a piece has no pages");
  const reference = reader.varint(Math.min(referenceMax, blocks.length));
  if (reference === 0) return { piece: { pages, block: undefined, offsetPages: 0 }, reference };
  const offsetPages = reader.varint(windowPages - pages);
  return { piece: { pages, block: blocks[reference - 1], offsetPages }, reference };
}
