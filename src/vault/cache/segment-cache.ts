/**
 * The local cache of index segments: immutable files named by content, in a folder of this user
 * alone. Nothing in it is needed: what is absent or damaged is built again from the vault.
 *
 * Several processes may use one folder: a file gets its name only when it is whole (rename), and
 * two that write the same name write the same bytes. Where the folder cannot be used, segments go
 * to an unlinked file in the temporary folder, and without one to memory, which the index bounds.
 */
import {
  chmodSync,
  closeSync,
  lstatSync,
  mkdirSync,
  openSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { toHex } from "#base/bytes.ts";
import type { RandomSource } from "#base/random.ts";
import { FilePages, MemoryPages, OpenFiles, type PageSource, SpoolPages } from "./page-source.ts";

/** Descriptors that a cache holds open at most. */
const openFilesMax = 64;

/** How long a file that is not wanted stays: another process may know a newer state of the vault. */
const staleMs = 7 * 24 * 60 * 60 * 1000;
const unfinishedPrefix = "tmp-";
const segmentPattern = /^[0-9a-f]{64}$/;

/** Where a cache may put files. */
export interface SegmentCacheOptions {
  /** The folder of this vault on this host; made when absent. */
  readonly cacheDirectory?: string | undefined;
  /** Where to keep segments for this process alone if the folder cannot be used. */
  readonly temporaryDirectory?: string | undefined;
  readonly random: RandomSource;
}

/** See the file's head. */
export class SegmentCache {
  readonly #options: SegmentCacheOptions;
  readonly #files = new OpenFiles(openFilesMax);
  #directory: string | undefined;
  #problem: string | undefined;
  #spool: { readonly file: number; length: number } | undefined;
  #spoolAllowed: boolean;
  #memoryBytes = 0;

  private constructor(options: SegmentCacheOptions) {
    this.#options = options;
    this.#spoolAllowed = options.temporaryDirectory !== undefined;
  }

  /** Opens the folder, or the next best place. */
  static open(options: SegmentCacheOptions): SegmentCache {
    const cache = new SegmentCache(options);
    if (options.cacheDirectory !== undefined) cache.#useDirectory(options.cacheDirectory);
    return cache;
  }

  /** The folder in use; `undefined` where segments live for this process alone. */
  get directory(): string | undefined {
    return this.#directory;
  }

  /** Why the folder, or the temporary one, is not used. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Bytes of segments in memory. */
  get memoryBytes(): number {
    return this.#memoryBytes;
  }

  /** What an earlier run may have left of a segment; to be checked page by page. */
  find(name: Uint8Array): PageSource | undefined {
    if (this.#directory === undefined) return undefined;
    const segment = toHex(name);
    return new FilePages(this.#files, join(this.#directory, segment), segment);
  }

  /** Keeps the pages of a segment, in place of any that were there. */
  async write(name: Uint8Array, pages: Uint8Array): Promise<PageSource> {
    const segment = toHex(name);
    if (await this.writeNamed(segment, [pages])) {
      const source = this.find(name);
      if (source !== undefined) return source;
    }
    return this.#writeSpool(segment, pages) ?? this.#writeMemory(pages);
  }

  /** Writes a file of the folder as a whole; false where there is no folder or it is full. */
  async writeNamed(name: string, parts: Iterable<Uint8Array>): Promise<boolean> {
    if (this.#directory === undefined) return false;
    const path = join(this.#directory, name);
    const unfinished = join(
      this.#directory,
      `${unfinishedPrefix}${toHex(this.#options.random.bytes(12))}`,
    );
    try {
      await writeFile(unfinished, parts, { mode: 0o600, flag: "wx" });
      await rename(unfinished, path);
    } catch (error) {
      this.#fail(error);
      await rm(unfinished, { force: true }).catch((later: unknown) => {
        this.#fail(later);
      });
      return false;
    }
    this.#files.forget(path);
    return true;
  }

  /**
   * Removes what no run has used for long: files of segments that `isWanted` refuses, and what
   * runs that were killed left unfinished. One too many costs a rebuild, no more. Returns whether there
   * was a segment that `isWanted` refuses.
   */
  async removeStale(isWanted: (segment: string) => boolean, nowMs: number): Promise<boolean> {
    const directory = this.#directory;
    let isAnyRefused = false;
    if (directory === undefined) return false;
    try {
      for (const name of await readdir(directory)) {
        const isSegment = segmentPattern.test(name) && !isWanted(name);
        isAnyRefused ||= isSegment;
        if (!isSegment && !name.startsWith(unfinishedPrefix)) continue;
        const path = join(directory, name);
        const { mtimeMs } = await stat(path);
        if (nowMs - mtimeMs > staleMs) await rm(path, { force: true });
      }
    } catch (error) {
      this.#fail(error);
    }
    return isAnyRefused;
  }

  /** Closes files; a spool is gone then. */
  close(): void {
    this.#files.close();
    if (this.#spool !== undefined) closeSync(this.#spool.file);
    this.#spool = undefined;
    this.#spoolAllowed = false;
  }

  #useDirectory(directory: string): void {
    try {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      const { uid, mode } = lstatSync(directory);
      if (uid !== process.getuid?.()) throw new Error("it belongs to another user");
      if ((mode & 0o077) !== 0) chmodSync(directory, 0o700);
      this.#directory = directory;
    } catch (error) {
      this.#fail(error);
    }
  }

  #writeSpool(segment: string, pages: Uint8Array): PageSource | undefined {
    try {
      const spool = this.#openSpool();
      if (spool === undefined) return undefined;
      const offset = spool.length;
      let done = 0;
      while (done < pages.length) {
        done += writeSync(spool.file, pages, done, pages.length - done, offset + done);
      }
      spool.length += pages.length;
      return new SpoolPages(spool.file, offset, segment);
    } catch (error) {
      this.#fail(error);
      this.#spoolAllowed = false;
      return undefined;
    }
  }

  #openSpool(): { readonly file: number; length: number } | undefined {
    const directory = this.#options.temporaryDirectory;
    if (!this.#spoolAllowed || directory === undefined) return undefined;
    if (this.#spool === undefined) {
      const path = join(directory, `kluis-index-${toHex(this.#options.random.bytes(12))}`);
      const file = openSync(path, "wx+", 0o600);
      unlinkSync(path);
      this.#spool = { file, length: 0 };
    }
    return this.#spool;
  }

  #writeMemory(pages: Uint8Array): PageSource {
    this.#memoryBytes += pages.length;
    return new MemoryPages(pages);
  }

  #fail(error: unknown): void {
    this.#problem ??= error instanceof Error ? error.message : String(error);
  }
}
