/** Where the layers of a domain's disks lie: beside an image file, in a pool of files for a device. */
import { lstat, stat } from "node:fs/promises";
import { isAbsolute, join } from "node:path";

import type { OriginalDisk } from "#drivers/layers/layered-vm.ts";
import { whyNotSealed } from "#drivers/layers/overlay.ts";
import {
  findDisk,
  isOnDevice,
  originalLayer,
  type DiskRecord,
  type VmRecord,
} from "#drivers/layers/vm-record.ts";
import type { DomainDisk, RefusedDisk } from "./domain-xml.ts";
import { isVirshRefusal, type Virsh } from "./virsh.ts";
import { attributeOf, childOf, parseXml } from "./xml.ts";

/** Kinds of pools that are a folder of this host. */
const folderPools: ReadonlySet<string> = new Set(["dir", "fs", "netfs"]);

/** What decides where layers lie. */
export interface LayerPlaces {
  readonly virsh: Virsh;
  /** The pool that the user names for layers of devices. */
  readonly layerPool: string | undefined;
  readonly stored: VmRecord | undefined;
}

/** Disks as they are below all layers, and those that have no place for any. */
export interface PlacedDisks {
  readonly disks: readonly OriginalDisk[];
  readonly refused: readonly RefusedDisk[];
}

/**
 * Places every disk. The record, which outlives the option, says where layers are; the option says
 * where those of a disk without layers will be. Errors: QmpFailed.
 */
export async function placeLayers(
  domain: { readonly uuid: string; readonly disks: readonly DomainDisk[] },
  places: LayerPlaces,
): Promise<PlacedDisks> {
  const { stored, virsh, layerPool } = places;
  const disks: OriginalDisk[] = [];
  const refused: RefusedDisk[] = [];
  let found: PoolFolder | undefined;
  for (const disk of domain.disks) {
    const { name } = disk;
    const known = stored === undefined ? undefined : findDisk(stored, name);
    const original = await toOriginal(disk, known);
    const strange = await whyNotSealedBelow(original, known);
    if (strange !== undefined) {
      refused.push({ name, reason: strange });
    } else if (!isDeviceBelow(disk, known)) {
      disks.push(original);
    } else if (known?.layerStem !== undefined && (layerPool === undefined || hasLayers(known))) {
      disks.push({ ...original, layerStem: known.layerStem });
    } else if (layerPool === undefined) {
      const reason =
        "it is a block device, and what a snapshot keeps of it needs a place: name a started pool " +
        "of type dir, fs or netfs with --layer-pool POOL (`virsh pool-list` shows them)";
      refused.push({ name, reason });
    } else {
      found ??= await findPoolFolder(virsh, layerPool);
      if ("reason" in found) refused.push({ name, reason: found.reason });
      else disks.push({ ...original, layerStem: join(found.folder, `${domain.uuid}-${name}`) });
    }
  }
  return { disks, refused };
}

/** The image below all layers: the XML names the newest, unless another program has changed that. */
async function toOriginal(disk: DomainDisk, known: DiskRecord | undefined): Promise<OriginalDisk> {
  const { name, path, format, volume, secretId } = disk;
  const sealed = secretId === undefined ? {} : { secretId };
  const isMoved = known !== undefined && hasLayers(known) && (await isMovedTo(path, known));
  const named = { name, path, format, ...sealed, ...(volume === undefined ? {} : { volume }) };
  if (isMoved) return { ...named, isMoved };
  if (known === undefined || !isNamed(path, known)) return named;
  const { describedPath, volume: original } = known;
  const image = { name, path: describedPath, format: originalLayer(known).format, ...sealed };
  return original === undefined ? image : { ...image, volume: original };
}

/** Of a disk without layers: that its image is encrypted as its XML says, in a way that layers can be. */
async function whyNotSealedBelow(
  original: OriginalDisk,
  known: DiskRecord | undefined,
): Promise<string | undefined> {
  const isLayered = known !== undefined && hasLayers(known) && original.isMoved !== true;
  return original.secretId === undefined || isLayered ? undefined : await whyNotSealed(original);
}

function isDeviceBelow(disk: DomainDisk, known: DiskRecord | undefined): boolean {
  if (disk.isDevice || known === undefined) return disk.isDevice;
  return isOnDevice(known) && known.layers.some(({ path }) => path === disk.path);
}

function isNamed(path: string, known: DiskRecord): boolean {
  return known.describedPath === path || known.layers.some((layer) => layer.path === path);
}

/**
 * Whether another program has given the disk this image: one that is none of its layers, or a layer
 * above which all are gone, as after a merge by hand. While they are there nobody can tell whether
 * they hold what this one does not.
 */
async function isMovedTo(path: string, known: DiskRecord): Promise<boolean> {
  if (!isNamed(path, known)) return true;
  const at = known.layers.findIndex((layer) => layer.path === path);
  const above = known.layers.slice(Math.max(0, at) + 1);
  if (above.length === 0) return false;
  for (const layer of above) if (await isThere(layer.path)) return false;
  return true;
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

function hasLayers(disk: DiskRecord): boolean {
  return disk.layers.length > 1;
}

type PoolFolder = { readonly folder: string } | { readonly reason: string };

async function findPoolFolder(virsh: Virsh, pool: string): Promise<PoolFolder> {
  const cannot = (reason: string): PoolFolder => ({
    reason: `its layers cannot lie in pool "${pool}" of --layer-pool: ${reason}`,
  });
  let root;
  try {
    root = parseXml(await virsh.ask(["pool-dumpxml", `--pool=${pool}`]));
  } catch (error) {
    if (!isVirshRefusal(error)) throw error;
    return cannot("libvirt has no such pool");
  }
  const type = attributeOf(root, "type") ?? "";
  if (!folderPools.has(type)) {
    return cannot(`it is of type "${type}"; those of type dir, fs and netfs hold files`);
  }
  const started = (await virsh.ask(["pool-list", "--name"])).split("\n").map((name) => name.trim());
  if (!started.includes(childOf(root, "name")?.text ?? pool)) return cannot("it is not started");
  const folder = childOf(childOf(root, "target"), "path")?.text ?? "";
  const status = await stat(folder).catch(() => undefined);
  const isFolder = isAbsolute(folder) && status?.isDirectory() === true;
  return isFolder ? { folder } : cannot(`its target "${folder}" is no folder of this host`);
}
