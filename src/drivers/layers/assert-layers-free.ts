/** What must hold before layers of a disk are merged and removed. */
import { KluisError } from "#base/kluis-error.ts";
import { assertNobodyWrites } from "./assert-nobody-writes.ts";
import type { RunningMachine } from "./layered-vm.ts";
import { countInnerSnapshots } from "./overlay.ts";
import { activeLayer, type DiskRecord, type LayerRecord } from "./vm-record.ts";

/**
 * Errors: SnapshotInUse (backoff) where a layer holds snapshots of another program. They would be lost
 * with it, and below another layer nobody could go back to them or delete them.
 */
export async function assertNoInnerSnapshots(layers: readonly LayerRecord[]): Promise<void> {
  for (const { path, number } of layers) {
    // An original image keeps its own whatever we do.
    if (number === 0 || (await countInnerSnapshots(path)) === 0) continue;
    throw new KluisError(
      "SnapshotInUse",
      `Cannot work on the layers of the VM: "${path}" holds snapshots of another program; delete them ` +
        "first (`virsh snapshot-list` shows them)",
      { details: { path } },
    );
  }
}

/** A disk, and those of its layers that go. */
export interface GoingLayers {
  readonly disk: DiskRecord;
  readonly going: readonly LayerRecord[];
}

/**
 * Nothing is marked as begun before this: what another program does with the disks goes first.
 *
 * Errors: Busy (backoff) where another program has a job on the running VM; ImageInUse where the VM is
 * stopped and its images are written; SnapshotInUse (backoff) where a layer that goes holds snapshots
 * of another program.
 */
export async function assertLayersFree(
  machine: RunningMachine | undefined,
  disks: readonly GoingLayers[],
  signal: AbortSignal | undefined,
): Promise<void> {
  await assertNoInnerSnapshots(disks.flatMap(({ going }) => going));
  if (machine === undefined) {
    for (const { disk } of disks) await assertNobodyWrites(activeLayer(disk));
    return;
  }
  await using session = await machine.open(signal);
  await session.assertFree(disks.map(({ disk }) => disk.name));
}
