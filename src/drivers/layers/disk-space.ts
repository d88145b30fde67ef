/** What the layers of a disk take, and the room that is left beside them. */
import { stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";

import { readDeviceBytes } from "#drivers/disk/block-device.ts";
import type { DiskSpace } from "#ports/hypervisor.ts";
import { activeLayer, layerStem, type DiskRecord, type LayerRecord } from "./vm-record.ts";

/** Unit of `st_blocks`, whatever the file system. */
const BLOCK_BYTES = 512;

/** Layers and free space of one disk, as they are now. */
export async function readDiskSpace(disk: DiskRecord): Promise<DiskSpace> {
  const folder = dirname(layerStem(disk));
  const [status, room] = await Promise.all([stat(folder), statfs(folder)]);
  let allocatedBytes = 0;
  for (const layer of disk.layers) allocatedBytes += await readAllocatedBytes(layer);
  return {
    name: disk.name,
    folder,
    fileSystem: String(status.dev),
    freeBytes: room.bavail * room.bsize,
    allocatedBytes,
    layers: disk.layers.length,
    ...(await largestWith(disk, activeLayer(disk))),
  };
}

/** The most that one layer above the original took, `layer` included; empty where there was none. */
export async function largestWith(
  disk: DiskRecord,
  layer: LayerRecord,
): Promise<Pick<DiskRecord, "largestLayerBytes">> {
  const known = disk.largestLayerBytes;
  if (layer.number === 0) return known === undefined ? {} : { largestLayerBytes: known };
  return { largestLayerBytes: Math.max(known ?? 0, await readAllocatedBytes(layer)) };
}

async function readAllocatedBytes(layer: LayerRecord): Promise<number> {
  const status = await stat(layer.path);
  // What of it is in use the device does not tell.
  return status.isBlockDevice() ? await readDeviceBytes(layer.path) : status.blocks * BLOCK_BYTES;
}
