/** Disks whose layers another program has changed: their earlier snapshots keep the layers that they had. */
import { KluisError } from "#base/kluis-error.ts";
import { toUnfrozen } from "./layer-changes.ts";
import { readBackingPath } from "./overlay.ts";
import { activeLayer, type DiskRecord, type SnapshotRecord, type VmRecord } from "./vm-record.ts";

/**
 * The snapshots, each with layers of its own of the disks `known`, which are about to get others from
 * layer `from` on. Fingerprints say whether those are still as they were when somebody reads them.
 */
export function keepChains(
  snapshots: readonly SnapshotRecord[],
  known: readonly DiskRecord[],
  from = 0,
): readonly SnapshotRecord[] {
  if (known.length === 0) return snapshots;
  return snapshots.map((snapshot) => ({
    ...snapshot,
    disks: snapshot.disks.map((disk) => {
      const before = known.find((each) => each.name === disk.name);
      if (before === undefined || disk.layers !== undefined || disk.layer < from) return disk;
      return { ...disk, layers: before.layers.filter((layer) => layer.number <= disk.layer) };
    }),
  }));
}

/**
 * The record of a disk of which another program has merged layers, or took them off: those that are
 * left are as they are now, the files of the others stay where they are. Layers, and snapshots of them,
 * below the one that was written are what they were.
 *
 * @param used Numbers of the layers that are left, oldest first.
 */
export function withForeignMerge(
  record: VmRecord,
  disk: DiskRecord,
  used: readonly number[],
): VmRecord {
  const gone = disk.layers.filter(({ number }) => !used.includes(number));
  const [lowest] = gone;
  if (lowest === undefined) return record;
  const written = used.findLast((number) => number < lowest.number) ?? 0;
  const now: DiskRecord = {
    ...disk,
    layers: disk.layers
      .filter((layer) => !gone.includes(layer))
      .map((layer) => (layer.number < written ? layer : toUnfrozen(layer))),
    left: [...(disk.left ?? []), ...gone.map(({ path }) => path)],
  };
  return {
    ...record,
    disks: record.disks.map((each) => (each === disk ? now : each)),
    snapshots: keepChains(record.snapshots, [disk], written),
  };
}

/**
 * Numbers of the layers, oldest first, that the headers name from the active one down. Errors:
 * SnapshotBaseChanged where one names what is no layer of the disk.
 */
export async function readHeaderChain(disk: DiskRecord): Promise<readonly number[]> {
  const numbers: number[] = [];
  let layer = activeLayer(disk);
  while (layer.number > 0) {
    numbers.unshift(layer.number);
    const path = await readBackingPath(layer.path);
    const { number } = layer;
    const below = disk.layers.find(
      (each) =>
        each.number < number &&
        (each.path === path || (each.number === 0 && path === disk.describedPath)),
    );
    if (below === undefined) throw strangeBelow(layer.path, path);
    layer = below;
  }
  return [0, ...numbers];
}

function strangeBelow(layer: string, path: string | undefined): KluisError {
  const below = path === undefined ? "nothing" : `"${path}"`;
  return new KluisError(
    "SnapshotBaseChanged",
    `Cannot trust layer "${layer}": another program has put ${below} below it; put back what was there`,
    { details: { path: layer } },
  );
}
