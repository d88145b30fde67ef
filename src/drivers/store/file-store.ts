/**
 * A store in a folder of a file system: one file per object, under the object's name.
 *
 * A put writes a file in `tmp/`, fsyncs it, gives it its name by link(2) and fsyncs the directory.
 * link(2) never replaces anything, on local file systems and on NFS alike, which makes it
 * put-if-absent; a name therefore only ever stands for whole, durable content. See
 * docs/adr/0003-keys-and-stores.md.
 */
import { dirname, isAbsolute, join, resolve } from "node:path";

import { allEnded } from "#base/all-ended.ts";
import { assert } from "#base/assert.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom, type RandomSource } from "#base/random.ts";
import {
  assertObjectName,
  assertObjectPrefix,
  isObjectName,
  reservedSegment,
} from "#formats/object-name.ts";
import type { ByteRange, ObjectInfo, ObjectStore, PutOutcome } from "#ports/object-store.ts";
import { DirectorySyncs } from "./directory-syncs.ts";
import { FileCommitter } from "./file-committer.ts";
import { translated } from "./file-errors.ts";
import {
  fileSize,
  isAbsence,
  openForReading,
  readFolder,
  readRange,
  readWhole,
} from "./file-reads.ts";
import { systemFiles, type FileInfo, type FileSystem, type OpenFile } from "./file-system.ts";
import { assertRange, measureParts, objectNotFound } from "./store-arguments.ts";
import { makeDirectoriesDurably, StoreDirectories } from "./store-directories.ts";
import { removeFile, TempFiles } from "./temp-files.ts";

/** How a file store is opened. */
export interface FileStoreOptions {
  /** Makes the folder where there is none, and refuses one that holds foreign files. */
  readonly create?: boolean;
  readonly clock?: Clock;
  readonly random?: RandomSource;
  /** For tests: a file system of their own. */
  readonly files?: FileSystem;
}

/** Files whose size a listing asks for at once. */
const listStatsInFlight = 64;
/** Folders that a listing reads at once: objects named by content lie in 256 of them, few in each. */
const listFoldersInFlight = 64;
/** What a freshly made file system may hold beside a vault. */
const harmlessEntries = new Set(["lost+found"]);

/**
 * Opens the store in the folder `path` (absolute). Opening changes nothing, unless `create` is
 * given and the folder is missing; so a store on a read-only mount can be read.
 *
 * Errors: StoreNotFound (after-change) where there is no folder; StoreForeign (after-change) where
 * `create` finds foreign files; StoreDenied, StoreUnavailable.
 */
export async function openFileStore(
  path: string,
  options: FileStoreOptions = {},
): Promise<ObjectStore> {
  assert(isAbsolute(path) && path === resolve(path), "the path of a store is absolute and plain");
  const { files = systemFiles } = options;
  const syncs = new DirectorySyncs(files);
  const folder = await translated(`open the store "${path}"`, async () => {
    if (options.create === true) await makeDirectoriesDurably(files, path, syncs);
    const found = await readFolder(files, path);
    if (found === undefined) {
      throw new KluisError("StoreNotFound", `Cannot open the store "${path}": there is no folder`);
    }
    if (options.create === true) await assertNoForeignFiles(files, path);
    return found;
  });
  return new FileStore({ path, folder, files, syncs }, options);
}

/** The folder of a store and what keeps it durable. */
interface StoreFolder {
  readonly path: string;
  /** As it was at opening: another one at the same path is another store. */
  readonly folder: FileInfo;
  readonly files: FileSystem;
  readonly syncs: DirectorySyncs;
}

class FileStore implements ObjectStore {
  readonly location: string;
  readonly #folder: FileInfo;
  readonly #files: FileSystem;
  readonly #syncs: DirectorySyncs;
  readonly #directories: StoreDirectories;
  readonly #committer: FileCommitter;

  constructor({ path, folder, files, syncs }: StoreFolder, options: FileStoreOptions) {
    this.location = path;
    this.#folder = folder;
    this.#files = files;
    this.#syncs = syncs;
    this.#directories = new StoreDirectories(path, files, syncs);
    const temps = new TempFiles(path, files, {
      clock: options.clock ?? systemClock,
      random: options.random ?? systemRandom,
    });
    this.#committer = new FileCommitter(files, temps, syncs);
  }

  async put(name: string, parts: readonly Uint8Array[], signal?: AbortSignal): Promise<PutOutcome> {
    assertObjectName(name);
    measureParts(parts);
    signal?.throwIfAborted();
    const directory = dirname(name);
    return translated(`write object "${name}"`, async () => {
      this.#syncs.assertHealthy();
      await this.#assertPresent();
      return this.#committer.commit(join(this.location, name), parts, {
        prepare: () => this.#directories.ensure(directory === "." ? "" : directory),
        signal,
      });
    });
  }

  async get(name: string, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    assertObjectName(name);
    if (range !== undefined) assertRange(range);
    signal?.throwIfAborted();
    return translated(`read object "${name}"`, async () => {
      await using handle = await this.#openObject(name);
      const bytes =
        range === undefined ? await readWhole(handle, name) : await readRange(handle, name, range);
      signal?.throwIfAborted();
      return bytes;
    });
  }

  async stat(name: string, signal?: AbortSignal): Promise<ObjectInfo | undefined> {
    assertObjectName(name);
    signal?.throwIfAborted();
    return translated(`look up object "${name}"`, async () => {
      const sizeBytes = await fileSize(this.#files, join(this.location, name));
      if (sizeBytes !== undefined) return { name, sizeBytes };
      await this.#assertPresent();
      return undefined;
    });
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<ObjectInfo> {
    assertObjectPrefix(prefix);
    const folders = [prefix];
    while (folders.length > 0) {
      signal?.throwIfAborted();
      const next = folders.splice(-listFoldersInFlight);
      const read = await allEnded(next.map((folder) => this.#readFolder(folder)));
      folders.push(...read.flatMap(({ inner }) => inner));
      const files = read.flatMap((folder) => folder.files);
      for (let at = 0; at < files.length; at += listStatsInFlight) {
        signal?.throwIfAborted();
        yield* await this.#statAll(files.slice(at, at + listStatsInFlight));
      }
    }
    await translated("list objects", () => this.#assertPresent());
  }

  async remove(name: string, signal?: AbortSignal): Promise<void> {
    assertObjectName(name);
    signal?.throwIfAborted();
    const path = join(this.location, name);
    await translated(`remove object "${name}"`, async () => {
      await this.#assertPresent();
      this.#syncs.assertHealthy();
      const isRemoved = await removeFile(this.#files, path);
      if (!isRemoved && (await readFolder(this.#files, dirname(path))) === undefined) return;
      // Also where it was gone: whoever removed it may not have synced yet.
      await this.#syncs.sync(dirname(path));
    });
  }

  async probe(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    await translated(`prepare the store "${this.location}"`, async () => {
      await this.#assertPresent();
      await this.#committer.probe(signal);
    });
  }

  async #openObject(name: string): Promise<OpenFile> {
    try {
      return await openForReading(this.#files, join(this.location, name));
    } catch (error) {
      if (!isAbsence(error)) throw error;
    }
    await this.#assertPresent();
    throw objectNotFound(name);
  }

  /**
   * A store that was unmounted must not look like one without objects, and nothing may be written
   * into the empty folder below its mount point.
   */
  async #assertPresent(): Promise<void> {
    const now = await readFolder(this.#files, this.location);
    if (now?.dev === this.#folder.dev && now.ino === this.#folder.ino) return;
    throw new KluisError(
      "StoreUnavailable",
      `Cannot reach the store "${this.location}": its folder is gone or was replaced`,
    );
  }

  /** Names of files and prefixes of folders directly below `prefix`; what is no object's is left out. */
  async #readFolder(prefix: string): Promise<{ files: string[]; inner: string[] }> {
    const files: string[] = [];
    const inner: string[] = [];
    const entries = await translated(`list objects of "${prefix}"`, async () => {
      try {
        return await this.#files.readdir(join(this.location, prefix), { withFileTypes: true });
      } catch (error) {
        if (isAbsence(error)) return [];
        throw error;
      }
    });
    for (const entry of entries) {
      const name = `${prefix}${entry.name}`;
      if (!isObjectName(name)) continue;
      if (entry.isFile()) files.push(name);
      else if (entry.isDirectory()) inner.push(`${name}/`);
    }
    return { files, inner };
  }

  async #statAll(names: readonly string[]): Promise<ObjectInfo[]> {
    const infos = await Promise.all(
      names.map(async (name) => {
        const sizeBytes = await translated(`look up object "${name}"`, () =>
          fileSize(this.#files, join(this.location, name)),
        );
        return sizeBytes === undefined ? [] : [{ name, sizeBytes }];
      }),
    );
    return infos.flat();
  }
}

async function assertNoForeignFiles(files: FileSystem, path: string): Promise<void> {
  for (const { name } of await files.readdir(path, { withFileTypes: true })) {
    if (isObjectName(name) || name === reservedSegment || harmlessEntries.has(name)) continue;
    throw new KluisError(
      "StoreForeign",
      `Cannot create a store in "${path}": it holds ${JSON.stringify(name)}, which is not Kluis's`,
    );
  }
}
