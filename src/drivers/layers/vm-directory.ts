/** Where Kluis keeps what it knows of a VM; internal to this folder. */
import { mkdir, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";

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

/** Path of layer `number` of a disk; `stem` is that of layerStem. */
export function layerPath(stem: string, number: number): string {
  return `${stem}.kluis-${String(number)}.qcow2`;
}

/** Whether that is the path of a layer, of any number. */
export function isLayerPath(stem: string, path: string): boolean {
  const prefix = `${stem}.kluis-`;
  return path.startsWith(prefix) && /^\d+\.qcow2$/.test(path.slice(prefix.length));
}

/** Paths of all files that are layers of a disk, by their names; none where their folder is not there. */
export async function listLayerPaths(stem: string): Promise<readonly string[]> {
  const folder = dirname(stem);
  const paths = (await readFolder(folder)).map((name) => join(folder, name));
  return paths.filter((path) => isLayerPath(stem, path));
}

async function readFolder(folder: string): Promise<readonly string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** The folder of an image. */
export function folderOf(path: string): string {
  return dirname(path);
}
