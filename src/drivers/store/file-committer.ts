/** The commit protocol of the file store; internal to this folder. */
import { dirname } from "node:path";

import { allEnded } from "#base/all-ended.ts";
import { bytesEqual } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { PutOutcome } from "#ports/object-store.ts";
import type { DirectorySyncs } from "./directory-syncs.ts";
import { errnoOf } from "./file-errors.ts";
import { openForReading, readWhole } from "./file-reads.ts";
import type { FileSystem } from "./file-system.ts";
import { FileWrites } from "./file-writes.ts";
import { removeFile, removeFileAfterFailure, type TempFiles } from "./temp-files.ts";

/** Writers that a probe races against each other. */
const probeWriters = 8;
/** How often a name is tried that somebody else removes between two looks at it. */
const linkAttemptsMax = 100;

/** What happens beside the writing of a file. */
export interface CommitOptions {
  /** Makes the directory of the final name exist durably; runs while the content is written. */
  readonly prepare: () => Promise<void>;
  readonly signal: AbortSignal | undefined;
}

/**
 * Gives whole files their names: temporary file, fsync, link(2), fsync of the directory. Exactly
 * two fsyncs, in this order: content before its name, the name before the answer.
 */
export class FileCommitter {
  readonly #files: FileSystem;
  readonly #temps: TempFiles;
  readonly #syncs: DirectorySyncs;
  readonly #writes: FileWrites;

  constructor(files: FileSystem, temps: TempFiles, syncs: DirectorySyncs) {
    this.#files = files;
    this.#temps = temps;
    this.#syncs = syncs;
    this.#writes = new FileWrites(files);
  }

  /** Writes a file of final path `path` unless one is there; durable on return in both cases. */
  async commit(
    path: string,
    parts: readonly Uint8Array[],
    options: CommitOptions,
  ): Promise<PutOutcome> {
    const temp = await this.#temps.createPath();
    try {
      await allEnded([this.#writes.writeNew(temp, parts, options.signal), options.prepare()]);
      options.signal?.throwIfAborted();
      const outcome = await this.#link(temp, path);
      await removeFile(this.#files, temp);
      await this.#syncs.sync(dirname(path));
      return outcome;
    } catch (error) {
      await removeFileAfterFailure(this.#files, temp);
      throw error;
    }
  }

  async #link(temp: string, path: string): Promise<PutOutcome> {
    for (let attempt = 0; attempt < linkAttemptsMax; attempt++) {
      try {
        await this.#files.link(temp, path);
        return "created";
      } catch (error) {
        if (errnoOf(error) !== "EEXIST") throw error;
      }
      const outcome = await this.#examine(temp, path);
      if (outcome !== undefined) return outcome;
    }
    throw new KluisError(
      "StoreUnavailable",
      `Cannot write "${path}": others put and remove it all the time`,
    );
  }

  /** What it means that `path` is there; `undefined` where somebody has just removed it. */
  async #examine(temp: string, path: string): Promise<PutOutcome | undefined> {
    try {
      await using handle = await openForReading(this.#files, path);
      const ours = await this.#files.stat(temp, { bigint: true });
      const there = await handle.stat({ bigint: true });
      // NFS repeats a link whose answer was lost, and then finds its own.
      if (ours.ino === there.ino && ours.dev === there.dev) return "created";
      if (!there.isFile()) {
        throw new KluisError(
          "StoreForeign",
          `Cannot write "${path}": something else has that name`,
        );
      }
      // Its writer synced it before it got its name; somebody who copied the store may not have.
      await this.#syncs.syncHandle(handle);
      return "exists";
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return undefined;
      throw error;
    }
  }

  /**
   * Races writers on one temporary name and asserts that one wins; removes all of it.
   *
   * Errors: StoreUnsuitable (after-change).
   */
  async probe(signal: AbortSignal | undefined): Promise<void> {
    const target = await this.#temps.createPath();
    const contents = Array.from({ length: probeWriters }, (_, at) => Uint8Array.of(at, at, at));
    const options: CommitOptions = { prepare: () => Promise.resolve(), signal };
    const races = contents.map((content) => this.commit(target, [content], options));
    const results = await Promise.allSettled(races);
    try {
      const failed = results.find((result) => result.status === "rejected");
      if (failed !== undefined) throw failed.reason;
      const winners = contents.filter((_, at) => isCreated(results[at]));
      await using handle = await openForReading(this.#files, target);
      const stored = await readWhole(handle, "probe");
      const [winner] = winners;
      if (winners.length === 1 && winner !== undefined && bytesEqual(stored, winner)) return;
      throw new KluisError(
        "StoreUnsuitable",
        `Cannot use the file system of the store: ${winners.length} of ${probeWriters} ` +
          "writers of one name were told that they had created it",
      );
    } finally {
      await removeFile(this.#files, target);
    }
  }
}

function isCreated(result: PromiseSettledResult<PutOutcome> | undefined): boolean {
  return result?.status === "fulfilled" && result.value === "created";
}
