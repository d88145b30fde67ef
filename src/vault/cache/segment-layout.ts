/**
 * Layout of one index segment in the local cache: fixed records on pages, so that an entry is read
 * by its number alone.
 *
 * Page 0 says how many records there are; then follow pages of entries (32 bytes: id, frame,
 * offset, length), of frames (16 bytes) and of packs (96 bytes), each in the order of the segment.
 */
import { assert } from "#base/assert.ts";
import { asBuffer, bytesEqual } from "#base/bytes.ts";
import { idBytes } from "#formats/geometry.ts";
import type { IndexPackColumns } from "#formats/index-segment.ts";
import { cachePageBytes, cachePayloadBytes, sealCachePage } from "./cache-page.ts";

/** Bytes of a record. */
export const recordBytes = { entry: 32, frame: 16, pack: 96 } as const;
/** Records on a page. */
export const recordsPerPage = {
  entry: cachePayloadBytes / recordBytes.entry,
  frame: cachePayloadBytes / recordBytes.frame,
  pack: Math.floor(cachePayloadBytes / recordBytes.pack),
} as const;
/** Most frames of a segment; far above what 64 MiB of a real segment hold. */
export const segmentFramesMax = 2 ** 24;

const magic = Buffer.from("KLUISIC1", "latin1");

/** How many records a segment has. */
export interface SegmentShape {
  readonly entries: number;
  readonly frames: number;
  readonly packs: number;
}

/** Where the pages of a segment start. */
export interface SegmentLayout {
  readonly entryPage: number;
  readonly framePage: number;
  readonly packPage: number;
  readonly pages: number;
}

/** Where the pages of a segment of that shape lie. */
export function segmentLayout(shape: SegmentShape): SegmentLayout {
  const framePage = 1 + Math.ceil(shape.entries / recordsPerPage.entry);
  const packPage = framePage + Math.ceil(shape.frames / recordsPerPage.frame);
  const pages = packPage + Math.ceil(shape.packs / recordsPerPage.pack);
  return { entryPage: 1, framePage, packPage, pages };
}

/** The shape of decoded packs. */
export function segmentShape(packs: readonly IndexPackColumns[]): SegmentShape {
  const sum = (count: (pack: IndexPackColumns) => number): number =>
    packs.reduce((total, pack) => total + count(pack), 0);
  return {
    entries: sum((pack) => pack.entryCount),
    frames: sum((pack) => pack.frameCount),
    packs: packs.length,
  };
}

/** All pages of a segment, sealed. `name` is 32 bytes. */
export function buildSegmentPages(
  name: Uint8Array,
  packs: readonly IndexPackColumns[],
): { readonly shape: SegmentShape; readonly bytes: Uint8Array } {
  const shape = segmentShape(packs);
  assert(shape.frames <= segmentFramesMax, "a segment has at most 2^24 frames");
  const layout = segmentLayout(shape);
  const bytes = new Uint8Array(layout.pages * cachePageBytes);
  writeHead(bytes, name, shape);
  const at = { entry: 0, frame: 0, pack: 0 };
  const target = { bytes, words: new Uint32Array(bytes.buffer), layout };
  for (const pack of packs) {
    writePack(target, pack, at);
    writeFrames(target, pack, at);
    writeEntries(target, pack, at);
    at.pack++;
    at.frame += pack.frameCount;
    at.entry += pack.entryCount;
  }
  for (let page = 0; page < layout.pages; page++) {
    const start = page * cachePageBytes;
    sealCachePage(bytes.subarray(start, start + cachePageBytes), { name, page });
  }
  return { shape, bytes };
}

/** The shape that page 0, undamaged, gives; `undefined` where it is of another segment or version. */
export function parseHead(page: Uint8Array, name: Uint8Array): SegmentShape | undefined {
  const head = asBuffer(page);
  if (head.compare(magic, 0, 8, 0, 8) !== 0) return undefined;
  if (!bytesEqual(head.subarray(8, 40), name)) return undefined;
  const [entries, frames, packs] = [
    head.readUInt32LE(40),
    head.readUInt32LE(44),
    head.readUInt32LE(48),
  ];
  return { entries, frames, packs };
}

/** Offset in the segment of a record. */
export function recordOffset(
  layout: SegmentLayout,
  kind: "entry" | "frame" | "pack",
  index: number,
): number {
  const perPage = recordsPerPage[kind];
  const first = firstPage(layout, kind);
  const page = Math.floor(index / perPage);
  return (first + page) * cachePageBytes + (index - page * perPage) * recordBytes[kind];
}

/** The first page of records of a kind. */
export function firstPage(layout: SegmentLayout, kind: "entry" | "frame" | "pack"): number {
  if (kind === "entry") return layout.entryPage;
  return kind === "frame" ? layout.framePage : layout.packPage;
}

interface Target {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly layout: SegmentLayout;
}

interface Position {
  readonly entry: number;
  readonly frame: number;
  readonly pack: number;
}

function writeHead(bytes: Uint8Array, name: Uint8Array, shape: SegmentShape): void {
  const head = asBuffer(bytes);
  head.set(magic, 0);
  head.set(name, 8);
  head.writeUInt32LE(shape.entries, 40);
  head.writeUInt32LE(shape.frames, 44);
  head.writeUInt32LE(shape.packs, 48);
}

function writePack(target: Target, pack: IndexPackColumns, at: Position): void {
  const start = recordOffset(target.layout, "pack", at.pack);
  target.bytes.set(pack.name, start);
  target.bytes.set(pack.salt, start + 32);
  const numbers = [pack.type === "pack" ? 1 : 2, pack.epoch, at.frame, pack.frameCount];
  target.words.set([...numbers, at.entry, pack.entryCount], (start + 64) / 4);
}

function writeFrames(target: Target, pack: IndexPackColumns, at: Position): void {
  let offsetBytes = 64;
  for (let index = 0; index < pack.frameCount; index++) {
    const word = recordOffset(target.layout, "frame", at.frame + index) / 4;
    const sealedBytes = pack.sealedBytes[index] as number;
    target.words[word] = (at.pack | ((pack.codecs[index] as number) << 31)) >>> 0;
    target.words[word + 1] = offsetBytes;
    target.words[word + 2] = sealedBytes;
    target.words[word + 3] = pack.plainBytes[index] as number;
    offsetBytes += sealedBytes;
  }
}

/** An entry's last 8 bytes: frame in 24 bits, offset in 20, length - 1 in 20. */
function writeEntries(target: Target, pack: IndexPackColumns, at: Position): void {
  const { bytes, words, layout } = target;
  for (let index = 0; index < pack.entryCount; index++) {
    const start = recordOffset(layout, "entry", at.entry + index);
    const idAt = index * idBytes;
    for (let byte = 0; byte < idBytes; byte++)
      bytes[start + byte] = pack.ids[idAt + byte] as number;
    const frame = at.frame + (pack.entryFrames[index] as number);
    const length = (pack.lengthsBytes[index] as number) - 1;
    words[start / 4 + 6] = frame | ((length >>> 12) << 24);
    words[start / 4 + 7] = (pack.offsetsBytes[index] as number) | ((length & 0xfff) << 20);
  }
}
