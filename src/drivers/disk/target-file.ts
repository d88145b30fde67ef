/** A file that gets its name when it is complete: the part that raw and qcow2 targets share. */
import type { Stats } from "node:fs";
import { chmod, chown, lstat, open, realpath, rename, rm, type FileHandle } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import { choosePartPath, giveName } from "#drivers/process/part-file.ts";
import { isImageWritten } from "./image-lock.ts";

/** Longest base name that still leaves room for what a temporary name adds (NAME_MAX is 255). */
const NAME_BYTES_MAX = 200;

/** A target under its temporary name, beside the place where it shall be. */
export class TargetFile {
  /** Absolute. */
  readonly path: string;
  readonly tempPath: string;
  readonly #overwrite: boolean;
  /** The file that is replaced; its owner and mode stay. */
  readonly #before: Stats | undefined;

  private constructor(
    path: string,
    choice: { readonly overwrite: boolean; readonly tempPath: string },
    before: Stats | undefined,
  ) {
    this.path = path;
    this.#overwrite = choice.overwrite;
    this.tempPath = choice.tempPath;
    this.#before = before;
  }

  /**
   * Chooses a temporary name for `place`, and removes what restores to the same folder left that were
   * killed.
   *
   * Errors: TargetExists (after-change) unless `overwrite`; ImageInUse (after-change) where a VM has
   * what is there open for writing.
   */
  static async plan(place: string, overwrite: boolean): Promise<TargetFile> {
    const asked = resolve(place);
    // What a symbolic link names is replaced, not the link.
    const path = overwrite ? ((await unlessAbsent(asked, () => realpath(asked))) ?? asked) : asked;
    if (Buffer.byteLength(basename(path)) > NAME_BYTES_MAX) {
      throw new KluisError("ArgumentInvalid", `Cannot write "${place}": the name is too long`);
    }
    const before = await unlessAbsent(path, () => lstat(path));
    if (before !== undefined && !overwrite) throw targetExists(path);
    if (before?.isFile() === true) await assertNotWritten(path);
    const tempPath = await choosePartPath(path);
    return new TargetFile(path, { overwrite, tempPath }, before);
  }

  /** Makes what is under the temporary name durable and gives it its name, atomically. */
  async commit(): Promise<void> {
    try {
      await this.#adoptOwner();
      await syncFile(this.tempPath);
      if (this.#overwrite) await rename(this.tempPath, this.path);
      else await giveName(this.tempPath, this.path);
      await syncFolder(dirname(this.path));
    } catch (error) {
      throw toTargetError(this.path, error);
    }
  }

  /** Removes what is under the temporary name, if anything. */
  async remove(): Promise<void> {
    await rm(this.tempPath, { force: true });
  }

  /** A VM that runs as another user must be able to open what replaces its disk. */
  async #adoptOwner(): Promise<void> {
    const before = this.#before;
    if (before === undefined || !before.isFile()) return;
    const own = await lstat(this.tempPath);
    const { gid, mode, uid } = before;
    if (own.uid !== uid || own.gid !== gid) {
      try {
        await chown(this.tempPath, uid, gid);
      } catch (error) {
        // Only root may give files away; everybody else keeps what they write.
        if ((error as NodeJS.ErrnoException).code !== "EPERM") throw error;
        return;
      }
    }
    await chmod(this.tempPath, mode & 0o777);
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

/** What `look` finds at `path`; `undefined` where nothing is. */
async function unlessAbsent<T>(path: string, look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw toTargetError(path, error);
  }
}

async function assertNotWritten(path: string): Promise<void> {
  await withHandle(await open(path, "r"), async (handle) => {
    if (!(await isImageWritten(handle))) return;
    const reason = "another program has it open for writing";
    throw new KluisError("ImageInUse", `Cannot replace "${path}": ${reason}`);
  });
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
