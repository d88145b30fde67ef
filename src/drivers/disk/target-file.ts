/** A file that gets its name when it is complete: the part that raw and qcow2 targets share. */
import { constants, type Stats } from "node:fs";
import {
  chmod,
  chown,
  link,
  lstat,
  open,
  readdir,
  realpath,
  rename,
  rm,
  type FileHandle,
} from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

import { toHex } from "#base/bytes.ts";
import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import {
  createPartName,
  foreignPartAgeMs,
  isAbandoned,
  parsePartName,
  type PartSelf,
  readPartWriter,
} from "#drivers/process/part-name.ts";
import { isImageWritten } from "./image-lock.ts";

/** Longest base name that still leaves room for what a temporary name adds (NAME_MAX is 255). */
const NAME_BYTES_MAX = 200;
const TEMP_TOKEN_BYTES = 8;
/** What a temporary name shows of the name that the file shall have: there is room for no more. */
const SHOWN_CHARS = 40;
/** A part file of a writer that has ended is removed at once, of one that cannot be looked up later. */
const PART_AGES = { deadMs: 0, foreignMs: foreignPartAgeMs };
const PART_PATTERN = /^\..*\.([0-9a-f-]+)\.kluis-part$/s;

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
    choice: { readonly overwrite: boolean; readonly token: string },
    before: Stats | undefined,
  ) {
    this.path = path;
    this.#overwrite = choice.overwrite;
    this.#before = before;
    const shown = basename(path).slice(0, SHOWN_CHARS);
    this.tempPath = join(dirname(path), `.${shown}.${choice.token}.kluis-part`);
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
    const self = await readPartWriter();
    if (self !== undefined) await sweepParts(dirname(path), self);
    const token =
      self === undefined
        ? toHex(systemRandom.bytes(TEMP_TOKEN_BYTES))
        : createPartName(self, systemRandom);
    return new TargetFile(path, { overwrite, token }, before);
  }

  /** Makes what is under the temporary name durable and gives it its name, atomically. */
  async commit(): Promise<void> {
    try {
      await this.#adoptOwner();
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

/**
 * Removes part files of restores that have ended without doing so. Only one's own: where processes of
 * others are hidden (hidepid) they cannot be told from dead ones. No restore fails because of it.
 */
async function sweepParts(folder: string, self: PartSelf): Promise<void> {
  const names = await readdir(folder).catch((): string[] => []);
  await Promise.allSettled(
    names.map(async (name) => {
      const writer = parsePartName(PART_PATTERN.exec(name)?.[1] ?? "");
      if (writer === undefined) return;
      const path = join(folder, name);
      const info = await lstat(path);
      if (!info.isFile() || info.uid !== process.getuid?.()) return;
      const ageMs = systemClock.nowMs() - info.mtimeMs;
      if (await isAbandoned({ writer, ageMs }, self, PART_AGES)) await rm(path, { force: true });
    }),
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
