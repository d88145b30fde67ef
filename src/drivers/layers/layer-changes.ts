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
      if (disk.name !== merge.diskName || disk.layers !== undefined) return disk;
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
  /** Snapshots that are condemned, oldest first. */
  readonly dropped: readonly SnapshotRecord[];
  /** In the order in which they are done. */
  readonly merges: readonly LayerMerge[];
  /** Ids of the snapshots that are read and keep others, or layers, from going. */
  readonly blockedBy: readonly string[];
}

/**
 * Plans to release the snapshots `ids`. Every frozen layer that no snapshot left is the top of gets
 * the layers above it, up to and with the next one that is: what is overwritten is an instant that
 * nobody lists. The newest frozen layer has none above it until the next snapshot, and waits.
 *
 * @param read Ids of snapshots that are being read: they stay, and no layer of theirs is written.
 */
export function planRelease(
  record: VmRecord,
  ids: ReadonlySet<string>,
  read: ReadonlySet<string>,
): ReleasePlan {
  const inUse = record.snapshots.filter((snapshot) => read.has(snapshot.id));
  const dropped = record.snapshots.filter(({ id }) => ids.has(id) && !read.has(id));
  const left = record.snapshots.filter((snapshot) => !dropped.includes(snapshot));
  const wanted = record.disks.flatMap((disk) => planMerges(disk, left));
  const merges = wanted.filter((merge) => merge.into > topLayer(inUse, merge.diskName));
  const isBlocked = merges.length < wanted.length || inUse.some(({ id }) => ids.has(id));
  return { dropped, merges, blockedBy: isBlocked ? inUse.map(({ id }) => id) : [] };
}

/** The layer of a disk at which a snapshot was taken; -1 where it has none of those it has now. */
function layerAt(snapshot: SnapshotRecord, diskName: string): number {
  const disk = snapshot.disks.find((each) => each.name === diskName);
  return disk === undefined || disk.layers !== undefined ? -1 : disk.layer;
}

/** The highest layer of a disk that any of the snapshots shows; -1 where none does. */
function topLayer(snapshots: readonly SnapshotRecord[], diskName: string): number {
  const shown = snapshots.flatMap(({ disks }) => disks.filter(({ name }) => name === diskName));
  // Layers of its own may be in use all the same.
  return Math.max(-1, ...shown.map(({ layer }) => layer));
}

function planMerges(disk: DiskRecord, left: readonly SnapshotRecord[]): readonly LayerMerge[] {
  const kept = new Set(left.map((snapshot) => layerAt(snapshot, disk.name)));
  const merges: LayerMerge[] = [];
  let into: number | undefined;
  let upTo = 0;
  const end = (): void => {
    if (into !== undefined && into < upTo) merges.push({ diskName: disk.name, into, upTo });
    into = undefined;
  };
  for (const { number } of frozenLayers(disk)) {
    upTo = number;
    if (kept.has(number)) end();
    else into ??= number;
  }
  end();
  return merges;
}
