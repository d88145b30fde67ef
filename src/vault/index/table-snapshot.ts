/**
 * The snapshot of an index: its segments in the order of their numbers, and the table.
 *
 * It spares an open of a warm cache from reading every segment. It holds no more than what the
 * segments say; whatever is wrong with it, the table is built from them.
 */
import { asBuffer } from "#base/bytes.ts";
import { SnapshotUnreadable, type SnapshotReader } from "#vault/cache/snapshot-file.ts";
import type { SegmentShape } from "#vault/cache/segment-layout.ts";
import { IdTable } from "./id-table.ts";

/** A segment as a snapshot knows it. */
export interface SnapshotSegment {
  readonly name: Uint8Array;
  readonly shape: SegmentShape;
}

/** What a snapshot holds. */
export interface TableSnapshot {
  readonly segments: readonly SnapshotSegment[];
  readonly table: IdTable;
}

const magic = Buffer.from("KLUISIT1", "latin1");
const headBytes = 24;
const segmentBytes = 48;
const partitionBytes = 8;
/** More segments than any store can list; a bound for what is not proved yet. */
const segmentsMax = 2 ** 24;

/** The snapshot, in parts that hold until the next change of the table. */
export function* encodeSnapshot(snapshot: TableSnapshot): Generator<Uint8Array> {
  const { segments, table } = snapshot;
  const head = Buffer.alloc(headBytes);
  head.set(magic);
  head.writeUInt32LE(segments.length, 8);
  head.writeUInt32LE(table.partitionCount, 12);
  head.writeDoubleLE(table.count, 16);
  yield head;
  for (const { name, shape } of segments) {
    const record = Buffer.alloc(segmentBytes);
    record.set(name);
    record.writeUInt32LE(shape.entries, 32);
    record.writeUInt32LE(shape.frames, 36);
    record.writeUInt32LE(shape.packs, 40);
    yield record;
  }
  for (const { depth, count, parts } of table.snapshot()) {
    const record = Buffer.alloc(partitionBytes);
    record.writeUInt32LE(depth, 0);
    record.writeUInt32LE(count, 4);
    yield record;
    yield* parts;
  }
}

/**
 * Reads the snapshot of a cache; `undefined` where it is damaged or names a segment that
 * `isWanted` refuses (it was removed from the vault).
 */
export function decodeSnapshot(
  reader: SnapshotReader,
  isWanted: (name: Uint8Array) => boolean,
): TableSnapshot | undefined {
  try {
    const head = readRecord(reader, headBytes);
    if (head.compare(magic, 0, 8, 0, 8) !== 0) return undefined;
    const segmentCount = head.readUInt32LE(8);
    if (segmentCount > segmentsMax) return undefined;
    const segments: SnapshotSegment[] = [];
    for (let at = 0; at < segmentCount; at++) {
      const segment = readSegment(reader);
      if (!isWanted(segment.name)) return undefined;
      segments.push(segment);
    }
    const table = IdTable.restore(head.readUInt32LE(12), () => {
      const record = readRecord(reader, partitionBytes);
      return { depth: record.readUInt32LE(0), count: record.readUInt32LE(4), read: reader.read };
    });
    if (table?.count !== head.readDoubleLE(16) || !reader.end()) return undefined;
    return { segments, table };
  } catch (error) {
    if (error instanceof SnapshotUnreadable) return undefined;
    throw error;
  }
}

function readSegment(reader: SnapshotReader): SnapshotSegment {
  const record = readRecord(reader, segmentBytes);
  const shape = {
    entries: record.readUInt32LE(32),
    frames: record.readUInt32LE(36),
    packs: record.readUInt32LE(40),
  };
  return { name: new Uint8Array(record.subarray(0, 32)), shape };
}

function readRecord(reader: SnapshotReader, lengthBytes: number): Buffer {
  const record = new Uint8Array(lengthBytes);
  reader.read(record);
  return asBuffer(record);
}
