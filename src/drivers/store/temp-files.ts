/** Unfinished objects: files in `tmp/` that get their final name by link(2); internal to this folder. */
import { constants } from "node:fs";
import { open, readdir, stat, unlink, type FileHandle } from "node:fs/promises";
import { join } from "node:path";

import { assert } from "#base/assert.ts";
import type { Clock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import { isProcessAlive } from "#drivers/process/process-identity.ts";
import { reservedSegment } from "#formats/object-name.ts";
import { errnoOf } from "./file-errors.ts";
import { makeDirectory } from "./store-directories.ts";
import { createTempName, parseTempName, readTempWriter } from "./temp-names.ts";

/** Read-only for the owner: objects never change, and tools should say so to whoever tries. */
export const objectMode = 0o400;
/** Age from which the temporary file of a dead writer on this machine is removed. */
export const staleTempAgeMs = 60 * 60 * 1000;
/** The same where the writer cannot be looked up: another machine, boot or container. */
export const foreignTempAgeMs = 7 * 24 * 60 * 60 * 1000;

/** Most buffers of one writev(2); IOV_MAX of Linux. */
const writevPartsMax = 1024;

type Self = Awaited<ReturnType<typeof readTempWriter>>;

/** Writes and removes the temporary files of one store. */
export class TempFiles {
  /** The folder that holds them. */
  readonly folder: string;
  readonly #clock: Clock;
  readonly #random: RandomSource;
  #writer: Promise<Self> | undefined;

  constructor(root: string, options: { readonly clock: Clock; readonly random: RandomSource }) {
    this.folder = join(root, reservedSegment);
    this.#clock = options.clock;
    this.#random = options.random;
  }

  /** A path for a temporary file that nobody else uses. The first call makes the folder and sweeps it. */
  async createPath(): Promise<string> {
    this.#writer ??= this.#prepare();
    try {
      return join(this.folder, createTempName(await this.#writer, this.#random));
    } catch (error) {
      this.#writer = undefined;
      throw error;
    }
  }

  async #prepare(): Promise<Self> {
    await makeDirectory(this.folder);
    const writer = await readTempWriter();
    for (const name of await readdir(this.folder)) {
      if (await this.#isStale(name, writer)) await removeFile(join(this.folder, name));
    }
    return writer;
  }

  /**
   * Whether nobody can be writing this file. Should that be wrong all the same, its writer's link(2)
   * fails and it reports an error: no object is ever harmed by a sweep.
   */
  async #isStale(name: string, self: Self): Promise<boolean> {
    const writer = parseTempName(name);
    if (writer === undefined) return false;
    const ageMs = await this.#ageMs(join(this.folder, name));
    if (ageMs === undefined) return false;
    if (writer.scope !== self.scope) return ageMs > foreignTempAgeMs;
    return ageMs > staleTempAgeMs && !(await isProcessAlive({ ...writer, bootId: self.bootId }));
  }

  async #ageMs(path: string): Promise<number | undefined> {
    try {
      return this.#clock.nowMs() - (await stat(path)).mtimeMs;
    } catch (error) {
      // Its writer has finished with it.
      if (errnoOf(error) === "ENOENT") return undefined;
      throw error;
    }
  }
}

/** Creates a file that must not exist, for writing. */
export async function createFile(path: string): Promise<FileHandle> {
  return open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, objectMode);
}

/** Writes `parts` in order, without joining them, and fsyncs the file. */
export async function fillFile(
  handle: FileHandle,
  parts: readonly Uint8Array[],
  signal?: AbortSignal,
): Promise<void> {
  let rest = parts.filter((part) => part.byteLength > 0);
  while (rest.length > 0) {
    const { bytesWritten } = await handle.writev(rest.slice(0, writevPartsMax));
    assert(bytesWritten > 0, "writev writes something or fails");
    rest = dropBytes(rest, bytesWritten);
    signal?.throwIfAborted();
  }
  await handle.sync();
}

/** Removes a file; no error where there is none. */
export async function removeFile(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
  }
}

/** What is left of `parts` after their first `count` bytes: a write may stop anywhere. */
function dropBytes(parts: readonly Uint8Array[], count: number): Uint8Array[] {
  let left = count;
  for (const [at, part] of parts.entries()) {
    if (left < part.byteLength) return [part.subarray(left), ...parts.slice(at + 1)];
    left -= part.byteLength;
  }
  return [];
}

/**
 * Removes a file after a failure that is about to be reported. Should that fail as well, the first
 * error still is the one that matters, and a later sweep takes the file away.
 */
export async function removeFileAfterFailure(path: string): Promise<void> {
  await unlink(path).catch(() => undefined);
}
