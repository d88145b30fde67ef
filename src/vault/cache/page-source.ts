/** Where the pages of one cached segment are read from: a file, a part of a spool, or memory. */
import { closeSync, openSync, readSync } from "node:fs";

import { cachePageBytes } from "./cache-page.ts";

/** Reads pages. Throws {@link CacheUnreadable}; what it gives is checked by the caller. */
export interface PageSource {
  /** Fills `target`, a whole number of pages, from page `page` on. */
  readPages(target: Uint8Array, page: number): void;
}

/** Says that a cached segment must be built again from the vault. Never leaves the index. */
export class CacheUnreadable extends Error {
  override readonly name = "CacheUnreadable";
  /** The segment's name in hexadecimal. */
  readonly segment: string;

  constructor(segment: string, reason: string, cause?: unknown) {
    super(`index cache of segment ${segment}: ${reason}`, { cause });
    this.segment = segment;
  }
}

/** Open files of a cache, bounded: the one that was used longest ago is closed for the next. */
export class OpenFiles {
  readonly #filesMax: number;
  readonly #files = new Map<string, number>();

  constructor(filesMax: number) {
    this.#filesMax = filesMax;
  }

  /** A descriptor of the file for reading; the caller does not close it. */
  open(path: string): number {
    let file = this.#files.get(path);
    if (file === undefined) {
      file = openSync(path, "r");
      if (this.#files.size >= this.#filesMax) this.#closeOldest();
    } else {
      this.#files.delete(path);
    }
    this.#files.set(path, file);
    return file;
  }

  /** Closes the file, so that the next {@link open} finds what has its name then. */
  forget(path: string): void {
    const file = this.#files.get(path);
    if (file === undefined) return;
    this.#files.delete(path);
    closeSync(file);
  }

  /** Closes all. */
  close(): void {
    for (const path of this.#files.keys()) this.forget(path);
  }

  #closeOldest(): void {
    const oldest = this.#files.keys().next().value;
    if (oldest !== undefined) this.forget(oldest);
  }
}

/** Pages of a file of its own. */
export class FilePages implements PageSource {
  readonly #files: OpenFiles;
  readonly #path: string;
  readonly #segment: string;

  constructor(files: OpenFiles, path: string, segment: string) {
    this.#files = files;
    this.#path = path;
    this.#segment = segment;
  }

  readPages(target: Uint8Array, page: number): void {
    let got: number;
    try {
      got = readSync(this.#files.open(this.#path), target, 0, target.length, page * cachePageBytes);
    } catch (error) {
      throw new CacheUnreadable(this.#segment, "it cannot be read", error);
    }
    if (got !== target.length) throw new CacheUnreadable(this.#segment, "it is too short");
  }
}

/** Pages of a part of a spool file. */
export class SpoolPages implements PageSource {
  readonly #file: number;
  readonly #offset: number;
  readonly #segment: string;

  constructor(file: number, offset: number, segment: string) {
    this.#file = file;
    this.#offset = offset;
    this.#segment = segment;
  }

  readPages(target: Uint8Array, page: number): void {
    const at = this.#offset + page * cachePageBytes;
    const got = readSync(this.#file, target, 0, target.length, at);
    if (got !== target.length) throw new CacheUnreadable(this.#segment, "the spool is too short");
  }
}

/** Pages in memory. */
export class MemoryPages implements PageSource {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  readPages(target: Uint8Array, page: number): void {
    const start = page * cachePageBytes;
    target.set(this.#bytes.subarray(start, start + target.length));
  }
}
