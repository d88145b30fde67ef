/** A file that gets its name when it is complete: the part that raw and qcow2 targets share. */
import { constants } from "node:fs";
import { link, lstat, open, rename, rm, type FileHandle } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

import { toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";

/** Longest base name that still leaves room for what a temporary name adds (NAME_MAX is 255). */
const NAME_BYTES_MAX = 200;
const TEMP_TOKEN_BYTES = 8;

/** A target under its temporary name, beside the place where it shall be. */
export class TargetFile {
  /** Absolute. */
  readonly path: string;
  readonly tempPath: string;
  readonly #overwrite: boolean;

  private constructor(path: string, overwrite: boolean) {
    this.path = path;
    this.#overwrite = overwrite;
    const token = toHex(systemRandom.bytes(TEMP_TOKEN_BYTES));
    this.tempPath = join(dirname(path), `.${basename(path)}.${token}.kluis-part`);
  }

  /** Chooses a temporary name for `place`. TargetExists (after-change) unless `overwrite`. */
  static async plan(place: string, overwrite: boolean): Promise<TargetFile> {
    const target = new TargetFile(resolve(place), overwrite);
    if (Buffer.byteLength(basename(target.path)) > NAME_BYTES_MAX) {
      throw new KluisError("ArgumentInvalid", `Cannot write "${place}": the name is too long`);
    }
    if (!overwrite && (await exists(target.path))) throw targetExists(target.path);
    return target;
  }

  /** Makes what is under the temporary name durable and gives it its name, atomically. */
  async commit(): Promise<void> {
    try {
      await syncFile(this.tempPath);
      if (this.#overwrite) await rename(this.tempPath, this.path);
      else await this.#nameNew();
      await syncFolder(dirname(this.path));
    } catch (error) {
      throw toTargetError(this.path, error);
    }
  }

  /** Removes what is under the temporary name, if anything. */
  async remove(): Promise<void> {
    await rm(this.tempPath, { force: true });
  }

  async #nameNew(): Promise<void> {
    try {
      await link(this.tempPath, this.path);
      await rm(this.tempPath);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EEXIST") throw targetExists(this.path);
      if (code !== "EPERM" && code !== "ENOTSUP" && code !== "EOPNOTSUPP") throw error;
      // No hard links there (FAT, some network file systems): take the name with an empty file,
      // which nobody else can have made, and replace that.
      const flags = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY;
      const handle = await open(this.path, flags, 0o600);
      await handle.close();
      await rename(this.tempPath, this.path);
    }
  }
}

/** Translates an error of the file system on a target. */
export function toTargetError(path: string, error: unknown): KluisError {
  if (error instanceof KluisError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  const what = `Cannot write "${path}"`;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new KluisError("TargetNoSpace", `${what}: no space is left`, { cause: error });
  }
  if (code === "EEXIST") return targetExists(path);
  return new KluisError("TargetWriteFailed", `${what}: ${message}`, { cause: error });
}

/** The error of a target that is there and shall stay. */
export function targetExists(path: string): KluisError {
  return new KluisError("TargetExists", `Cannot write "${path}": it exists`);
}

/** The error of a device or export that the disk does not fit in. */
export function targetTooSmall(
  place: string,
  sizes: { readonly haveBytes: number; readonly needBytes: number },
): KluisError {
  const { haveBytes, needBytes } = sizes;
  return new KluisError(
    "TargetTooSmall",
    `Cannot write "${place}": it has ${String(haveBytes)} bytes, the disk ${String(needBytes)}`,
    { details: { haveBytes, needBytes } },
  );
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw toTargetError(path, error);
  }
}

async function syncFile(path: string): Promise<void> {
  await withHandle(await open(path, "r+"), (handle) => handle.sync());
}

async function syncFolder(path: string): Promise<void> {
  await withHandle(await open(path, "r"), (handle) => handle.sync());
}

async function withHandle(
  handle: FileHandle,
  work: (handle: FileHandle) => Promise<void>,
): Promise<void> {
  try {
    await work(handle);
  } finally {
    await handle.close();
  }
}
