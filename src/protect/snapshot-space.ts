/** Whether there is room for a snapshot and for what the guest writes on top of it; pure. */
import { KluisError } from "#base/kluis-error.ts";
import { type DiskSpace, layersMax } from "#ports/hypervisor.ts";

/** Part of what a disk takes that must be free before its first snapshot, in percent. */
export const firstFreePercent = { min: 0, max: 1000, usual: 50 } as const;
/** Free space in MiB below which a snapshot is given up, so that the guest goes on. */
export const reserveMiB = { min: 0, max: 1024 * 1024, usual: 256 } as const;
/** A snapshot adds a layer, and one more than that stays free for a run that dies. */
export const layersBeforeMax = layersMax - 2;

/** How much room is asked for. */
export interface SpaceWish {
  /** Before the first snapshot of a disk, of what it takes; see {@link firstFreePercent}. */
  readonly firstFreePercent: number;
  /** At any time; see {@link reserveMiB}. */
  readonly reserveBytes: number;
}

/** One file system on which layers grow. */
interface Pool {
  readonly folder: string;
  readonly freeBytes: number;
  neededBytes: number;
}

/**
 * Checks every file system on which layers of the VM grow: for each disk its largest layer so far, or
 * before its first one a part of what it takes, but the reserve at least. SnapshotNoSpace
 * (after-change), with the figures.
 */
export function assertSnapshotSpace(disks: readonly DiskSpace[], wish: SpaceWish): void {
  for (const { folder, freeBytes, neededBytes } of poolsOf(disks, wish)) {
    const wantedBytes = Math.max(neededBytes, wish.reserveBytes);
    if (freeBytes >= wantedBytes) continue;
    throw noSpace(
      `Cannot take a snapshot: "${folder}" has ${freeBytes} bytes free, ${wantedBytes} are needed`,
      { folder, freeBytes, neededBytes: wantedBytes },
    );
  }
}

/** The error for a snapshot that takes the guest's room; `undefined` while there is enough. */
export function findShortage(
  disks: readonly DiskSpace[],
  wish: Pick<SpaceWish, "reserveBytes">,
): KluisError | undefined {
  const { reserveBytes } = wish;
  const short = disks.find(({ freeBytes }) => freeBytes < reserveBytes);
  if (short === undefined) return undefined;
  const { folder, freeBytes } = short;
  return noSpace(
    `Cannot keep the snapshot: "${folder}" has ${freeBytes} bytes free, less than the reserve of ${reserveBytes}`,
    { folder, freeBytes, neededBytes: reserveBytes },
  );
}

/** How many snapshots have to go so that another one has a layer. */
export function layersToFree(disks: readonly DiskSpace[]): number {
  return Math.max(0, ...disks.map(({ layers }) => layers - layersBeforeMax));
}

function poolsOf(disks: readonly DiskSpace[], wish: SpaceWish): readonly Pool[] {
  const pools = new Map<string, Pool>();
  for (const disk of disks) {
    const pool = pools.get(disk.fileSystem) ?? { ...disk, neededBytes: 0 };
    pool.neededBytes +=
      disk.largestLayerBytes ?? Math.ceil((disk.allocatedBytes * wish.firstFreePercent) / 100);
    pools.set(disk.fileSystem, pool);
  }
  return [...pools.values()];
}

function noSpace(
  message: string,
  details: { readonly folder: string; readonly freeBytes: number; readonly neededBytes: number },
): KluisError {
  return new KluisError("SnapshotNoSpace", message, { details });
}
