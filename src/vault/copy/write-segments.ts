/** Index segments for packs that a store holds and none of its segments names. */
import type { RandomSource } from "#base/random.ts";
import { encodeIndexSegment, type IndexPack } from "#formats/index-segment.ts";
import { indexSegmentName, mapPackName, packName } from "#formats/store-names.ts";
import type { ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import { buildContainer } from "#vault/container/build-container.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { flushLimits } from "#vault/limits.ts";

/** Where segments are written. */
export interface SegmentTarget {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly random: RandomSource;
  /** The index of that store; takes in what is written. */
  readonly index: BlockIndex;
  readonly signal: AbortSignal | undefined;
  /** Told each segment that was put. */
  readonly onWritten?: ((segment: ObjectInfo) => void) | undefined;
}

/** The object of a pack that an index names. */
export function objectOfPack({ type, name }: Pick<IndexPack, "type" | "name">): string {
  return type === "pack" ? packName(name) : mapPackName(name);
}

/**
 * Writes segments for those of `packs` that no segment of the target names yet; durable on return.
 * The caller sees to it that the packs are there. Returns how many bytes were put.
 */
export async function writeMissingSegments(
  target: SegmentTarget,
  packs: AsyncIterable<IndexPack>,
): Promise<number> {
  const named = new Set<string>();
  for await (const pack of target.index.packs()) named.add(objectOfPack(pack));
  let waiting: IndexPack[] = [];
  let entries = 0;
  let bytes = 0;
  for await (const pack of packs) {
    const name = objectOfPack(pack);
    if (named.has(name)) continue;
    named.add(name);
    waiting.push(pack);
    entries += pack.entries.length;
    if (entries < flushLimits.entries) continue;
    bytes += await writeSegment(target, waiting);
    waiting = [];
    entries = 0;
  }
  if (waiting.length > 0) bytes += await writeSegment(target, waiting);
  return bytes;
}

async function writeSegment(target: SegmentTarget, packs: readonly IndexPack[]): Promise<number> {
  target.signal?.throwIfAborted();
  const sealed = buildContainer("indexSegment", encodeIndexSegment(packs), target);
  const name = indexSegmentName(sealed.name);
  const sizeBytes = sealed.bytes.byteLength;
  await target.store.put(name, [sealed.bytes], target.signal);
  target.onWritten?.({ name, sizeBytes });
  await target.index.addSegment(sealed.name, packs);
  return sizeBytes;
}
