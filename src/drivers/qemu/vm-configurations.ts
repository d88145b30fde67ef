/** Descriptions of VMs as they go into recovery points, and as they are written for restored VMs. */
import { lstat, open, rm, stat, type FileHandle } from "node:fs/promises";
import { join, resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import type { RestoredVm, VmConfigurations } from "#ports/vm-configurations.ts";
import { readDescriptionFiles } from "./description-files.ts";
import { parseVmDescription, type VmDescription } from "./description.ts";
import { syncDirectory } from "#drivers/layers/durable-file.ts";

/** What messages call a description that comes out of a recovery point. */
const keptDescription = "/recovery-point/vm.json";

/** Configurations of the VMs that `descriptionPaths` describe: files, or folders of them. */
export function createVmConfigurations(descriptionPaths: readonly string[]): VmConfigurations {
  return {
    async read(vmId, signal) {
      signal?.throwIfAborted();
      const files = await readDescriptionFiles(descriptionPaths);
      const file = files.find(({ description }) => description.name === vmId);
      if (file !== undefined) return encodeDescription(withoutState(file.description));
      throw new KluisError("VmNotFound", `Cannot find VM "${vmId}": no description names it`);
    },
    async check(vm, signal) {
      signal?.throwIfAborted();
      const path = pathOf(vm, parseKept(vm));
      await assertFree(path, vm.directory);
      return path;
    },
    // No description has an encrypted disk.
    readDiskKeys: () => Promise.resolve(new Map()),
    async create(vm, signal) {
      signal?.throwIfAborted();
      const kept = parseKept(vm);
      const path = pathOf(vm, kept);
      await assertFree(path, vm.directory);
      const text = encodeDescription({ ...kept, disks: vm.disks });
      // Whatever was written into it must start: what the parser refuses is refused here.
      parseVmDescription(text, path);
      await writeNewFile(path, text);
      await syncDirectory(vm.directory);
      return path;
    },
  };
}

/** The description of the recovery point, under its new name. ConfigInvalid (after-change). */
function parseKept(vm: Pick<RestoredVm, "configuration" | "name">): VmDescription {
  const kept = withoutState(parseVmDescription(vm.configuration, keptDescription));
  if (vm.name === undefined) return kept;
  return parseVmDescription(encodeDescription({ ...kept, name: vm.name }), keptDescription);
}

/** A saved machine state fits the disks of one moment only, and no restored ones. */
function withoutState(description: VmDescription): VmDescription {
  const { incoming: _, ...rest } = description;
  return rest;
}

function encodeDescription(description: VmDescription): string {
  return `${JSON.stringify(description, undefined, 2)}\n`;
}

function pathOf(vm: Pick<RestoredVm, "directory">, description: VmDescription): string {
  return resolve(join(vm.directory, `${description.name}.json`));
}

async function assertFree(path: string, directory: string): Promise<void> {
  if (!(await isFolder(directory))) {
    throw new KluisError("TargetWriteFailed", `Cannot restore to "${directory}": it is no folder`);
  }
  if (await isPresent(path)) {
    throw new KluisError("TargetExists", `Cannot write VM description "${path}": it exists`);
  }
}

/** Half a description, after a power cut, is no JSON and so starts nothing. */
async function writeNewFile(path: string, text: string): Promise<void> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, "wx", 0o600);
    await file.writeFile(text);
    await file.sync();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") {
      throw new KluisError("TargetExists", `Cannot write VM description "${path}": it exists`);
    }
    if (file !== undefined) await rm(path, { force: true });
    const { message } = error as Error;
    throw new KluisError("TargetWriteFailed", `Cannot write VM description "${path}": ${message}`, {
      cause: error,
    });
  } finally {
    await file?.close();
  }
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (isAbsence(error)) return false;
    throw error;
  }
}

async function isPresent(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (isAbsence(error)) return false;
    throw error;
  }
}

function isAbsence(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENOTDIR";
}
