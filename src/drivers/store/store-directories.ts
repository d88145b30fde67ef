/** The directories of a file store and their durability; internal to this folder. */
import { dirname, join } from "node:path";

import type { DirectorySyncs } from "./directory-syncs.ts";
import { errnoOf } from "./file-errors.ts";
import type { FileSystem } from "./file-system.ts";

/** Most directories that are remembered as durable; beyond, all are looked at again. */
const directoriesMax = 65_536;

/** Only the owner: slots invite guessing, and sizes of objects tell what changed. */
export const directoryMode = 0o700;

/**
 * Makes sure that directories exist and are durable, that is, that the entry of each in its parent
 * is: one that another process has just made may not be yet. A parent is synced once per store and
 * again only for a directory that is new.
 */
export class StoreDirectories {
  readonly #root: string;
  readonly #files: FileSystem;
  readonly #syncs: DirectorySyncs;
  /** Relative to the root, as `packs/00`. */
  readonly #durable = new Set<string>();

  constructor(root: string, files: FileSystem, syncs: DirectorySyncs) {
    this.#root = root;
    this.#files = files;
    this.#syncs = syncs;
  }

  /** Resolves when `directory` (relative, `""` the root itself) exists durably. */
  async ensure(directory: string): Promise<void> {
    if (directory === "" || this.#durable.has(directory)) return;
    const missing = ancestry(directory).filter((one) => !this.#durable.has(one));
    for (const one of missing) await makeDirectory(this.#files, join(this.#root, one));
    const siblings = await Promise.all(missing.map((one) => this.#syncParent(one)));
    if (this.#durable.size > directoriesMax) this.#durable.clear();
    for (const one of [...missing, ...siblings.flat()]) this.#durable.add(one);
  }

  /** Makes the entry of `directory` durable; returns all directories for which that now holds. */
  async #syncParent(directory: string): Promise<string[]> {
    const parent = parentOf(directory);
    const path = join(this.#root, parent);
    // Listed before the sync, which covers what was there when it began.
    const siblings = this.#durable.has(directory) ? [] : await listDirectories(this.#files, path);
    await this.#syncs.sync(path);
    return siblings.map((name) => (parent === "" ? name : `${parent}/${name}`));
  }
}

/**
 * Creates a folder (absolute) and its missing parents, all durably. The entry of the lowest one that
 * is there is made durable first: its maker may have died before that, or not come to it yet. Since
 * every maker does so before it makes another below, those above it are durable too.
 */
export async function makeDirectoriesDurably(
  files: FileSystem,
  path: string,
  syncs: DirectorySyncs,
): Promise<void> {
  // Level by level: Node's recursive mkdir calls every failure ENOENT.
  const missing: string[] = [];
  let there = path;
  for (; !(await isThere(files, there)); there = dirname(there)) missing.unshift(there);
  await syncIfReadable(dirname(there), syncs);
  for (const one of missing) {
    await makeDirectory(files, one);
    await syncs.sync(dirname(one));
  }
}

async function isThere(files: FileSystem, path: string): Promise<boolean> {
  try {
    await files.stat(path, { bigint: true });
    return true;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return false;
    throw error;
  }
}

/** Whoever may not read the parent did not make the folder: an administrator did, long before. */
async function syncIfReadable(path: string, syncs: DirectorySyncs): Promise<void> {
  try {
    await syncs.sync(path);
  } catch (error) {
    if (errnoOf(error) !== "EACCES") throw error;
  }
}

/** `a/b/c` → `a`, `a/b`, `a/b/c`. */
function ancestry(directory: string): string[] {
  const segments = directory.split("/");
  return segments.map((_, at) => segments.slice(0, at + 1).join("/"));
}

function parentOf(directory: string): string {
  const end = directory.lastIndexOf("/");
  return end === -1 ? "" : directory.slice(0, end);
}

/** mkdir(2) of one level; no error where it is there. Whether that is a folder, its use will tell. */
export async function makeDirectory(files: FileSystem, path: string): Promise<void> {
  try {
    await files.mkdir(path, { mode: directoryMode });
  } catch (error) {
    if (errnoOf(error) !== "EEXIST") throw error;
  }
}

async function listDirectories(files: FileSystem, path: string): Promise<string[]> {
  const entries = await files.readdir(path, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
}
