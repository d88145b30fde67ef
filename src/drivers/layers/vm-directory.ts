/** Where Kluis keeps what it knows of a VM; internal to this folder. */
import { mkdir, readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/** Only the user that runs Kluis reads sockets and records. */
const PRIVATE_MODE = 0o700;

/** Paths of one VM below the state folder; see docs/design/qemu-driver.md. */
export interface VmDirectory {
  readonly root: string;
  readonly recordPath: string;
  readonly lockPath: string;
  /** Asks whoever merges layers to stop: a snapshot is due. */
  readonly mergeStopPath: string;
  /** Held while a snapshot is sent to a vault: one transfer of a VM at a time. */
  readonly transferLockPath: string;
  readonly readersDirectory: string;
  readonly runDirectory: string;
}

/** The paths of a VM. */
export function planVmDirectory(stateDirectory: string, vmId: string): VmDirectory {
  const root = join(stateDirectory, "vms", vmId);
  return {
    root,
    recordPath: join(root, "record.json"),
    lockPath: join(root, "operation.lock"),
    mergeStopPath: join(root, "stop-merge"),
    transferLockPath: join(root, "transfer.lock"),
    readersDirectory: join(root, "readers"),
    runDirectory: join(root, "run"),
  };
}

/** Makes the folders where they are not there. */
export async function ensureVmDirectory(directory: VmDirectory): Promise<void> {
  for (const path of [directory.root, directory.readersDirectory, directory.runDirectory]) {
    await mkdir(path, { recursive: true, mode: PRIVATE_MODE });
  }
}

/** Path of layer `number` of the disk whose original image is at `originalPath`. */
export function layerPath(originalPath: string, number: number): string {
  return `${originalPath}.kluis-${String(number)}.qcow2`;
}

/** Paths of all files beside the image that are layers of it, by their names. */
export async function listLayerPaths(originalPath: string): Promise<readonly string[]> {
  const folder = dirname(originalPath);
  const prefix = `${basename(originalPath)}.kluis-`;
  const names = (await readdir(folder)).filter(
    (name) => name.startsWith(prefix) && /^\d+\.qcow2$/.test(name.slice(prefix.length)),
  );
  return names.map((name) => join(folder, name));
}

/** The folder of an image. */
export function folderOf(path: string): string {
  return dirname(path);
}
