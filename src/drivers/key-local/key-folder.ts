/**
 * Files of the local key provider; internal to this folder.
 *
 * `NAME/VERSION` is a version of a key (mode 0600), `NAME/VERSION.disabled` an empty mark beside it.
 * A deleted key is the folder `NAME.deleted`: it can be recovered until it is purged.
 */
import { constants } from "node:fs";
import { link, mkdir, open, readdir, rename, rm, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import {
  encodeLocalKey,
  localKeyBytesMax,
  type LocalKeyMaterial,
  parseLocalKey,
} from "./key-file.ts";
import { localVersionPattern } from "./local-key-name.ts";

/** Most versions of a key. */
export const localVersionsMax = 1024;

/** A version of a key. */
export interface LocalVersion {
  readonly version: string;
  readonly isEnabled: boolean;
}

const disabledMark = ".disabled";
const deletedMark = ".deleted";
const groupAndWorld = 0o077;

/**
 * All versions of a key, oldest first; `undefined` where there is no such key. A folder without a version
 * is none: its maker died before it wrote one.
 */
export async function listVersions(
  folder: string,
  name: string,
): Promise<readonly LocalVersion[] | undefined> {
  const files = await readFolder(join(folder, name));
  const versions = files?.filter((file) => localVersionPattern.test(file)).sort() ?? [];
  if (files === undefined || versions.length === 0) return undefined;
  return versions.map((version) => {
    return { version, isEnabled: !files.includes(`${version}${disabledMark}`) };
  });
}

/** Names of keys, and of those that were deleted. */
export async function listNames(
  folder: string,
): Promise<{ readonly names: readonly string[]; readonly deleted: readonly string[] }> {
  const files = (await readFolder(folder)) ?? [];
  const deleted = files.filter((file) => file.endsWith(deletedMark));
  return {
    names: files.filter((file) => !file.includes(".")).sort(),
    deleted: deleted.map((file) => file.slice(0, -deletedMark.length)).sort(),
  };
}

/** Whether a deleted key of that name can be recovered. */
export async function isDeleted(folder: string, name: string): Promise<boolean> {
  return (await readFolder(join(folder, `${name}${deletedMark}`))) !== undefined;
}

/** Reads a version; `undefined` where there is none. KeyDenied (after-change) where others may read it. */
export async function readVersion(
  folder: string,
  name: string,
  version: string,
): Promise<LocalKeyMaterial | undefined> {
  const path = join(folder, name, version);
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    const { mode, size } = await file.stat();
    if ((mode & groupAndWorld) !== 0) {
      throw denied(`others may use the file "${path}"; run chmod 600 on it`);
    }
    if (size > localKeyBytesMax) throw denied(`"${path}" is no key`);
    return parseLocalKey(await file.readFile());
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw toKeyError(error);
  }
}

/** Writes a new version; durable on return. A version that exists stays. */
export async function writeVersion(
  folder: string,
  place: { readonly name: string; readonly version: string },
  key: LocalKeyMaterial,
): Promise<void> {
  const home = join(folder, place.name);
  const draft = join(home, `${place.version}.new`);
  try {
    const made = await mkdir(home, { recursive: true, mode: 0o700 });
    const file = await open(draft, "wx", 0o600);
    try {
      await file.writeFile(encodeLocalKey(key));
      await file.sync();
    } finally {
      await file.close();
    }
    await link(draft, join(home, place.version));
    await unlink(draft);
    await syncFolder(home);
    await syncFolder(folder);
    // Folders above that are new are as lost without their entry as the key is.
    const highest = dirname(made ?? home);
    for (let above = folder; above !== highest && above !== dirname(above);) {
      above = dirname(above);
      await syncFolder(above);
    }
  } catch (error) {
    throw toKeyError(error);
  }
}

/** Enables or disables a version; durable on return. */
export async function markVersion(
  folder: string,
  place: { readonly name: string; readonly version: string },
  isEnabled: boolean,
): Promise<void> {
  const home = join(folder, place.name);
  const mark = join(home, `${place.version}${disabledMark}`);
  try {
    if (isEnabled) await rm(mark, { force: true });
    else await (await open(mark, "w", 0o600)).close();
    await syncFolder(home);
  } catch (error) {
    throw toKeyError(error);
  }
}

/** Deletes a key so that it can be recovered, recovers it, or removes a deleted one for good; durable. */
export async function moveKey(
  folder: string,
  name: string,
  what: "delete" | "recover" | "purge",
): Promise<void> {
  const home = join(folder, name);
  const deleted = `${home}${deletedMark}`;
  try {
    if (what === "purge") await rm(deleted, { recursive: true });
    // rename(2) refuses a folder in its way that is not empty.
    else if (what === "delete") await rename(home, deleted);
    else await rename(deleted, home);
    await syncFolder(folder);
  } catch (error) {
    const code = errnoOf(error);
    if (code === "ENOENT")
      throw denied(`there is no ${what === "delete" ? "" : "deleted "}key "${name}"`);
    if (code === "ENOTEMPTY" || code === "EEXIST") throw denied(`"${name}" is there twice`);
    throw toKeyError(error);
  }
}

/** The error for a key that may not be used. */
export function denied(reason: string): KluisError {
  return new KluisError("KeyDenied", `Cannot use the key: ${reason}`);
}

async function readFolder(path: string): Promise<string[] | undefined> {
  try {
    return await readdir(path);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw toKeyError(error);
  }
}

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  await folder.sync();
}

function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error ? String(error.code) : undefined;
}

function toKeyError(error: unknown): unknown {
  const errno = error instanceof Error && "syscall" in error ? errnoOf(error) : undefined;
  if (errno === undefined) return error;
  const isRefused = ["EACCES", "EPERM", "EROFS", "ENOTDIR", "ELOOP"].includes(errno);
  const code = isRefused ? "KeyDenied" : "KeyUnavailable";
  return new KluisError(code, `Cannot use the key: the file system refused (${errno})`, {
    cause: error,
  });
}
