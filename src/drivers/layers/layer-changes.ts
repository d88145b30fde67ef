/** Pure changes of a record's layers and snapshots. */
import { assert } from "#base/assert.ts";
import {
  activeLayer,
  findDisk,
  mapDisks,
  type DiskRecord,
  type LayerRecord,
  type SnapshotRecord,
  type VmRecord,
} from "./vm-record.ts";

/** The record with a new active layer on each disk. `layers` by disk name. */
export function withNewLayers(
  record: VmRecord,
  layers: ReadonlyMap<string, LayerRecord>,
): VmRecord {
  return mapDisks(record, (disk) => {
    const layer = layers.get(disk.name);
    return layer === undefined ? disk : { ...disk, layers: [...disk.layers, layer] };
  });
}

/** The record without the layers of that number, which are to be removed; their content is unused. */
export function withoutTopLayers(record: VmRecord, number: number): VmRecord {
  const paths = record.disks.map(activeLayer).filter((layer) => layer.number === number);
  const rest = mapDisks(record, (disk) => ({
    ...disk,
    layers: disk.layers.filter((layer) => layer.number !== number),
  }));
  return { ...rest, garbage: [...rest.garbage, ...paths.map((layer) => layer.path)] };
}

/**
 * The record of a disk without layers whose content the layer below them has taken over. Snapshots
 * that named one of them name that layer below.
 */
export function withMergedLayers(
  record: VmRecord,
  diskName: string,
  numbers: readonly number[],
): VmRecord {
  const disk = findDisk(record, diskName);
  assert(disk !== undefined, "layers are merged on a disk that is there");
  if (numbers.length === 0) return record;
  const gone = disk.layers.filter((layer) => numbers.includes(layer.number));
  const kept = disk.layers.filter((layer) => !numbers.includes(layer.number));
  assert(kept.length > 0 && !numbers.includes(0), "the original image stays");
  const moved = record.snapshots.map((snapshot) => moveSnapshot(snapshot, { diskName, kept }));
  return {
    ...record,
    disks: record.disks.map((each) => (each === disk ? { ...disk, layers: kept } : each)),
    snapshots: moved,
    garbage: [...record.garbage, ...gone.map((layer) => layer.path)],
  };
}

function moveSnapshot(
  snapshot: SnapshotRecord,
  merge: { readonly diskName: string; readonly kept: readonly LayerRecord[] },
): SnapshotRecord {
  return {
    ...snapshot,
    disks: snapshot.disks.map((disk) => {
      if (disk.name !== merge.diskName) return disk;
      const layer = merge.kept.findLast((candidate) => candidate.number <= disk.layer);
      assert(layer !== undefined, "the original image is below every snapshot");
      return { ...disk, layer: layer.number };
    }),
  };
}

/** The record with a layer of a disk replaced. */
export function withLayer(record: VmRecord, diskName: string, layer: LayerRecord): VmRecord {
  return mapDisks(record, (disk) =>
    disk.name === diskName ? { ...disk, layers: replaceLayer(disk, layer) } : disk,
  );
}

function replaceLayer(disk: DiskRecord, layer: LayerRecord): readonly LayerRecord[] {
  return disk.layers.map((each) => (each.number === layer.number ? layer : each));
}

/** A layer whose fingerprint is void, because it is going to be written. */
export function toUnfrozen(layer: LayerRecord): LayerRecord {
  const { frozen: _, ...rest } = layer;
  return rest;
}

/** Frozen layers, which are all but the last of each disk. */
export function frozenLayers(disk: DiskRecord): readonly LayerRecord[] {
  return disk.layers.slice(0, -1);
}

/** One range of layers of a disk to be merged: those above `into` up to `upTo`, into `into`. */
export interface LayerMerge {
  readonly diskName: string;
  readonly into: number;
  readonly upTo: number;
}

/** What a release does. */
export interface ReleasePlan {
  /** Snapshots that go, oldest first. */
  readonly dropped: readonly SnapshotRecord[];
  readonly merges: readonly LayerMerge[];
  /** Ids of the snapshots that are read and keep others, or layers, from going. */
  readonly blockedBy: readonly string[];
}

/**
 * Plans to release every snapshot older than `keepId`. A layer that is part of a snapshot somebody
 * reads is not written: merges happen only above the newest of those.
 *
 * @param read Ids of snapshots that are being read, older or newer.
 */
export function planRelease(
  record: VmRecord,
  keepId: string,
  read: ReadonlySet<string>,
): ReleasePlan {
  const keepAt = record.snapshots.findIndex((snapshot) => snapshot.id === keepId);
  const keep = record.snapshots[keepAt];
  assert(keep !== undefined, "the snapshot to keep is there");
  const older = record.snapshots.slice(0, keepAt);
  const inUse = record.snapshots.filter((snapshot) => read.has(snapshot.id));
  const ranges = record.disks.map((disk) => planRange(disk, keep, inUse));
  const isBlocked =
    older.some((snapshot) => inUse.includes(snapshot)) || ranges.some((range) => range.isCut);
  return {
    dropped: older.filter((snapshot) => !inUse.includes(snapshot)),
    merges: ranges.flatMap((range) => (range.merge === undefined ? [] : [range.merge])),
    blockedBy: isBlocked ? inUse.map((snapshot) => snapshot.id) : [],
  };
}

interface MergeRange {
  readonly merge?: LayerMerge;
  /** Whether readers keep layers from being merged. */
  readonly isCut: boolean;
}

function planRange(
  disk: DiskRecord,
  keep: SnapshotRecord,
  inUse: readonly SnapshotRecord[],
): MergeRange {
  const layerIn = (snapshot: SnapshotRecord): number =>
    snapshot.disks.find((each) => each.name === disk.name)?.layer ?? -1;
  const wanted = frozenLayers(disk).filter((layer) => layer.number <= layerIn(keep));
  const readUpTo = Math.max(-1, ...inUse.map(layerIn));
  const free = wanted.filter((layer) => layer.number > readUpTo);
  const isCut = wanted.length >= 2 && free.length < wanted.length;
  const [into] = free;
  const upTo = free.at(-1);
  if (into === undefined || upTo === undefined || into === upTo) return { isCut };
  return { merge: { diskName: disk.name, into: into.number, upTo: upTo.number }, isCut };
}
