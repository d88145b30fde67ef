/** The record of a VM on disk, and how it follows the description. */
import { readFile, realpath } from "node:fs/promises";

import { KluisError } from "#base/kluis-error.ts";
import { isBlockDevice } from "#drivers/disk/block-device.ts";
import { writeDurably } from "./durable-file.ts";
import { keepChains } from "./old-chains.ts";
import { assertDescribedFormat } from "./overlay.ts";
import type { LayeredVm, OriginalDisk } from "./layered-vm.ts";
import { isLayerPath, listLayerPaths, type VmDirectory } from "./vm-directory.ts";
import {
  encodeVmRecord,
  layerStem,
  originalLayer,
  parseVmRecord,
  RECORD_BYTES_MAX,
  type DiskRecord,
  type VmRecord,
} from "./vm-record.ts";

/**
 * The record as it should be for the description: the one on disk, with disks that were added or
 * replaced, or that another program gave another image. Writes nothing.
 *
 * Errors: ConfigInvalid where a disk with layers was taken out of the description or names another
 * image; SnapshotBaseChanged where layers lie beside an image that no record knows; ImageNotFound,
 * ImageInvalid.
 */
export async function readVmRecord(context: LayeredVm): Promise<VmRecord> {
  const { description, directory } = context;
  const stored = await readStoredRecord(directory);
  const record = stored ?? emptyRecord(description.name);
  for (const disk of record.disks) assertStillDescribed(disk, description);
  const disks: DiskRecord[] = [];
  for (const described of description.disks) {
    disks.push(await followDisk(record, described));
  }
  // A disk that is followed keeps its layers as they are.
  const isReplaced = (known: DiskRecord): boolean =>
    disks.some((disk) => disk.name === known.name && disk.layers !== known.layers);
  const replaced = record.disks.filter(isReplaced);
  return { ...record, disks, snapshots: keepChains(record.snapshots, replaced) };
}

/** Makes the record durable; the caller holds the VM's lock. */
export async function writeVmRecord(context: LayeredVm, record: VmRecord): Promise<VmRecord> {
  const bytes = encodeVmRecord(record);
  if (bytes.byteLength > RECORD_BYTES_MAX) {
    throw new KluisError("SnapshotFailed", "Cannot record the VM's layers: there are too many");
  }
  await writeDurably(context.directory.recordPath, bytes);
  return record;
}

function emptyRecord(vmId: string): VmRecord {
  return { vmId, nextLayer: 1, hasStarted: false, disks: [], snapshots: [], garbage: [] };
}

/** The record on disk; `undefined` where there is none. Errors: ConfigInvalid. */
export async function readStoredRecord(directory: VmDirectory): Promise<VmRecord | undefined> {
  const { recordPath } = directory;
  try {
    return parseVmRecord(await readFile(recordPath), recordPath);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function assertStillDescribed(disk: DiskRecord, description: LayeredVm["description"]): void {
  if (disk.layers.length === 1) return;
  const described = description.disks.find((candidate) => candidate.name === disk.name);
  if (described === undefined) {
    throw mismatch(description, `disks: "${disk.name}" has layers and is not described any more`);
  }
  if (described.isMoved === true) return;
  const { format, secretId } = originalLayer(disk);
  if (described.path !== disk.describedPath || described.format !== format) {
    throw mismatch(
      description,
      `disks: "${disk.name}" has layers on "${disk.describedPath}" and names another image`,
    );
  }
  if (described.secretId === secretId) return;
  const sealed =
    secretId === undefined ? "are not encrypted" : `are encrypted by secret "${secretId}"`;
  const named = described.secretId === undefined ? "no secret" : `secret "${described.secretId}"`;
  throw mismatch(
    description,
    `disks: "${disk.name}" has layers that ${sealed}, and names ${named}`,
  );
}

async function followDisk(record: VmRecord, described: OriginalDisk): Promise<DiskRecord> {
  const known = record.disks.find((disk) => disk.name === described.name);
  const isDevice = described.layerStem !== undefined;
  // Names of devices stay, where what they lead to has another number after each start of the host.
  const path = isDevice ? described.path : await resolveImage(described.path);
  if (isDevice) await assertDevice(path);
  const isMoved = described.isMoved === true;
  if (known !== undefined && known.describedPath === described.path && !isMoved) {
    const original = originalLayer(known);
    const isSame =
      original.path === path &&
      original.format === described.format &&
      original.secretId === described.secretId;
    if (isSame) {
      return withNames(known, { ...described, ...(await chooseStem(known, described)) });
    }
    if (known.layers.length > 1) {
      throw new KluisError(
        "SnapshotBaseChanged",
        `Cannot use disk "${described.name}": "${described.path}" was replaced below its layers`,
        { details: { path: described.path } },
      );
    }
  }
  return adoptDisk(described, path, known);
}

async function adoptDisk(
  described: OriginalDisk,
  path: string,
  known: DiskRecord | undefined,
): Promise<DiskRecord> {
  const { name, format, secretId } = described;
  const layer = { number: 0, path, format, ...(secretId === undefined ? {} : { secretId }) };
  await assertDescribedFormat(layer);
  const above = known?.layers.slice(1).map((each) => each.path) ?? [];
  const left = [...(known?.left ?? []), ...above];
  // A layer that a newer record made is no image of another program.
  const isLayer = known !== undefined && isLayerPath(layerStem(known), path);
  if (isLayer && !left.includes(path)) throw unknownLayer(name, path);
  const beside = await listLayerPaths(described.layerStem ?? path);
  const strange = beside.find((each) => !left.includes(each));
  if (strange !== undefined) throw unknownLayer(name, strange);
  const disk = { name, describedPath: described.path, layers: [layer] };
  return withNames(left.length === 0 ? disk : { ...disk, left }, described);
}

/** The disk, with its original named as it is described, and its layers where they are to lie. */
function withNames(disk: DiskRecord, { volume, layerStem: stem }: OriginalDisk): DiskRecord {
  const { volume: _, layerStem: __, ...rest } = disk;
  return {
    ...rest,
    ...(volume === undefined ? {} : { volume }),
    ...(stem === undefined ? {} : { layerStem: stem }),
  };
}

/** The layers of a device move to another place only while there are none in the old one. */
async function chooseStem(
  known: DiskRecord,
  described: OriginalDisk,
): Promise<Pick<OriginalDisk, "layerStem">> {
  const { layerStem: stem } = known;
  if (stem === undefined || stem === described.layerStem) return {};
  const isUsed = known.layers.length > 1 || (await listLayerPaths(stem)).length > 0;
  return isUsed ? { layerStem: stem } : {};
}

async function assertDevice(path: string): Promise<void> {
  try {
    if (await isBlockDevice(path)) return;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new KluisError("ImageNotFound", `Cannot open the device "${path}": it is not there`);
  }
  throw new KluisError("ImageInvalid", `Cannot use "${path}": it is no block device`);
}

async function resolveImage(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new KluisError("ImageNotFound", `Cannot open the image "${path}": it is not there`);
  }
}

/** The error for a layer that lies beside an image and that the record does not name. */
export function unknownLayer(diskName: string, path: string): KluisError {
  return new KluisError(
    "SnapshotBaseChanged",
    `Cannot use disk "${diskName}": "${path}" is a layer of it that this state folder does not ` +
      "know; use the state folder that made it, as it was last",
    { details: { path } },
  );
}

function mismatch(description: LayeredVm["description"], reason: string): KluisError {
  return new KluisError(
    "ConfigInvalid",
    `Cannot use the description of VM "${description.name}": field ${reason}; ` +
      "put it back and run `kluis vm detach` first",
    { details: { vm: description.name, field: "disks" } },
  );
}
