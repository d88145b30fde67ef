/** Unfinished objects: files in `tmp/` that get their final name by link(2); internal to this folder. */
import { join } from "node:path";

import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import {
  createPartName,
  foreignPartAgeMs,
  isAbandoned,
  parsePartName,
  type PartSelf,
  readPartWriter,
} from "#drivers/process/part-name.ts";
import { reservedSegment } from "#formats/object-name.ts";
import { errnoOf } from "./file-errors.ts";
import { isAbsence } from "./file-reads.ts";
import type { FileSystem } from "./file-system.ts";
import { makeDirectory } from "./store-directories.ts";

/** Age from which the temporary file of a dead writer on this machine is removed. */
export const staleTempAgeMs = 60 * 60 * 1000;
/** The same where the writer cannot be looked up: another machine, boot or container. */
export const foreignTempAgeMs = foreignPartAgeMs;

const ages = { deadMs: staleTempAgeMs, foreignMs: foreignTempAgeMs };

/** Writes and removes the temporary files of one store. */
export class TempFiles {
  /** The folder that holds them. */
  readonly folder: string;
  readonly #files: FileSystem;
  readonly #clock: Clock;
  readonly #random: RandomSource;
  #writer: Promise<PartSelf> | undefined;

  constructor(
    root: string,
    files: FileSystem,
    options: { readonly clock: Clock; readonly random: RandomSource },
  ) {
    this.folder = join(root, reservedSegment);
    this.#files = files;
    this.#clock = options.clock;
    this.#random = options.random;
  }

  /** A path for a temporary file that nobody else uses. The first call makes the folder and sweeps it. */
  async createPath(): Promise<string> {
    this.#writer ??= this.#prepare();
    try {
      return join(this.folder, createPartName(await this.#writer, this.#random));
    } catch (error) {
      this.#writer = undefined;
      throw error;
    }
  }

  async #prepare(): Promise<PartSelf> {
    await makeDirectory(this.#files, this.folder);
    const writer = await readPartWriter();
    if (writer === undefined) {
      throw new KluisError("StoreUnavailable", "Cannot write to the store: /proc is not mounted");
    }
    for (const { name } of await this.#files.readdir(this.folder, { withFileTypes: true })) {
      if (!(await this.#isStale(name, writer))) continue;
      await removeFile(this.#files, join(this.folder, name));
    }
    return writer;
  }

  /**
   * Whether nobody can be writing this file. Should that be wrong all the same, its writer's link(2)
   * fails and it reports an error: no object is ever harmed by a sweep.
   */
  async #isStale(name: string, self: PartSelf): Promise<boolean> {
    const writer = parsePartName(name);
    if (writer === undefined) return false;
    const ageMs = await this.#ageMs(join(this.folder, name));
    return ageMs !== undefined && (await isAbandoned({ writer, ageMs }, self, ages));
  }

  async #ageMs(path: string): Promise<number | undefined> {
    try {
      const { mtimeMs } = await this.#files.stat(path, { bigint: true });
      return this.#clock.nowMs() - Number(mtimeMs);
    } catch (error) {
      // Its writer has finished with it.
      if (errnoOf(error) === "ENOENT") return undefined;
      throw error;
    }
  }
}

/** Removes a file; false where there is none. */
export async function removeFile(files: FileSystem, path: string): Promise<boolean> {
  try {
    await files.unlink(path);
    return true;
  } catch (error) {
    if (isAbsence(error)) return false;
    throw error;
  }
}

/**
 * Removes a file after a failure that is about to be reported. Should that fail as well, the first
 * error still is the one that matters, and a later sweep takes the file away.
 */
export async function removeFileAfterFailure(files: FileSystem, path: string): Promise<void> {
  await files.unlink(path).catch(() => undefined);
}
