/** Index segments made up from numbers: ids are the key stream of a cipher, so that any of millions can be made again. */
import { createCipheriv, createHash } from "node:crypto";

import { containerHeaderBytes } from "#formats/container.ts";
import { idBytes, pageBytes, windowBytes } from "#formats/geometry.ts";
import { createColumns, type IndexPackColumns } from "#formats/index-segment.ts";

const aesBlockBytes = 16;
/** Ids per call are a multiple of 2, so that they start on a block of the cipher. */
const idsPerThreeBlocks = 2;
const packEntries = 128;

/** What blocks a synthetic pack has, and how many of them a frame. */
export interface SyntheticBlocks {
  readonly blockBytes: number;
  readonly blocksPerFrame: number;
}

/** As a full backup writes them. */
const windowBlocks: SyntheticBlocks = { blockBytes: windowBytes, blocksPerFrame: 4 };
/** Single changed pages, the smallest blocks there are: as an increment writes them. */
export const pageBlocks: SyntheticBlocks = {
  blockBytes: pageBytes,
  blocksPerFrame: windowBytes / pageBytes,
};

/** The ids numbered from `first`, an even number, on; 24 bytes each, the same for the same key. */
export function syntheticIds(key: Uint8Array, first: number, count: number): Uint8Array {
  const counter = Buffer.alloc(aesBlockBytes);
  counter.writeBigUInt64BE(BigInt((first / idsPerThreeBlocks) * 3), 8);
  const cipher = createCipheriv("aes-128-ctr", key, counter);
  return cipher.update(new Uint8Array(count * idBytes));
}

/** A key for {@link syntheticIds} from a seed. */
export function syntheticKey(seed: string): Uint8Array {
  return createHash("sha256").update(seed).digest().subarray(0, aesBlockBytes);
}

/**
 * One segment of data packs as a full backup writes them: windows of 256 KiB, four to a frame, 128
 * to a pack, unless told otherwise. Its entries have the ids numbered from `first` (even) on.
 */
export function syntheticSegment(
  key: Uint8Array,
  first: number,
  count: number,
  blocks = windowBlocks,
): { readonly name: Uint8Array; readonly packs: IndexPackColumns[] } {
  const packs: IndexPackColumns[] = [];
  for (let done = 0; done < count; done += packEntries) {
    const range = { first: first + done, count: Math.min(packEntries, count - done) };
    packs.push(syntheticPack(key, range, blocks));
  }
  const name = createHash("sha256").update(key).update(`${first}+${count}`).digest();
  return { name: new Uint8Array(name), packs };
}

function syntheticPack(
  key: Uint8Array,
  { first, count }: { readonly first: number; readonly count: number },
  { blockBytes, blocksPerFrame }: SyntheticBlocks,
): IndexPackColumns {
  const ids = syntheticIds(key, first, count);
  const digest = createHash("sha512").update(ids.subarray(0, idBytes)).digest();
  const head = {
    type: "pack" as const,
    name: new Uint8Array(digest.subarray(0, 32)),
    salt: new Uint8Array(digest.subarray(32)),
    epoch: 1,
  };
  const frames = Math.ceil(count / blocksPerFrame);
  const pack = createColumns(head, frames, count);
  pack.ids.set(ids);
  for (let frame = 0; frame < frames; frame++) {
    pack.sealedBytes[frame] = 600_000 + ((first + frame) % 1000);
    pack.plainBytes[frame] = blocksPerFrame * blockBytes;
    pack.codecs[frame] = 1;
  }
  for (let entry = 0; entry < count; entry++) {
    pack.entryFrames[entry] = Math.floor(entry / blocksPerFrame);
    pack.offsetsBytes[entry] = (entry % blocksPerFrame) * blockBytes;
    pack.lengthsBytes[entry] = blockBytes;
  }
  return pack;
}

/** Where the frame of an entry of {@link syntheticSegment} starts; `entry` counts in its pack. */
export function syntheticFrameOffset(pack: IndexPackColumns, entry: number): number {
  let offsetBytes = containerHeaderBytes;
  const frame = pack.entryFrames[entry] ?? 0;
  for (let at = 0; at < frame; at++) offsetBytes += pack.sealedBytes[at] ?? 0;
  return offsetBytes;
}
