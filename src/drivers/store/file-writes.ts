/**
 * Writes whole new files and syncs them; internal to this folder.
 *
 * Large content in page-aligned memory goes past the page cache: nobody reads a pack soon, copying it
 * there costs more than writing it, and it would push out what the host's virtual machines need.
 */
import { constants } from "node:fs";

import { alignmentBytes, allocateAligned, isAligned } from "#base/aligned-memory.ts";
import { assert } from "#base/assert.ts";
import { Pool } from "#base/pool.ts";
import { errnoOf } from "./file-errors.ts";
import type { FileSystem, OpenFile } from "./file-system.ts";
import { removeFile } from "./temp-files.ts";

/** Read-only for the owner: objects never change, and tools should say so to whoever tries. */
export const objectMode = 0o400;
/** Most buffers of one writev(2); IOV_MAX of Linux. */
const writevPartsMax = 1024;
/** Files written past the page cache at once; each needs a page for its end. */
const directFilesMax = 16;
/** Content below this is written through the page cache. */
const directBytesMin = 1024 * 1024;

/** What file systems without direct I/O answer. */
const noDirectIo: ReadonlySet<string> = new Set(["EINVAL", "ENOTSUP", "EOPNOTSUPP"]);

const newFile = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;

/** Writes the files of one store; remembers whether its file system takes direct I/O. */
export class FileWrites {
  readonly #files: FileSystem;
  #isDirect = true;
  readonly #endPages = new Pool({
    size: directFilesMax,
    make: () => allocateAligned(alignmentBytes, "private"),
  });

  constructor(files: FileSystem) {
    this.#files = files;
  }

  /** Creates the file `path`, which must not exist, with `parts` in order; durable on return. */
  async writeNew(
    path: string,
    parts: readonly Uint8Array[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const [whole] = parts;
    const wantsDirect =
      this.#isDirect &&
      parts.length === 1 &&
      whole !== undefined &&
      whole.byteLength >= directBytesMin &&
      isAligned(whole.subarray(0, alignmentBytes), 0);
    if (wantsDirect && (await this.#writeDirect(path, whole, signal))) return;
    await using handle = await this.#files.open(path, newFile, objectMode);
    await writeParts(handle, parts, signal);
    await handle.sync();
  }

  /** Returns false, and leaves no file, where the file system takes no direct I/O. */
  async #writeDirect(
    path: string,
    bytes: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    try {
      await using handle = await this.#files.open(path, newFile | constants.O_DIRECT, objectMode);
      const endBytes = bytes.byteLength % alignmentBytes;
      const bodyBytes = bytes.byteLength - endBytes;
      await writeParts(handle, [bytes.subarray(0, bodyBytes)], signal);
      if (endBytes > 0) await this.#writeEnd(handle, bytes.subarray(bodyBytes), bodyBytes);
      await handle.sync();
      return true;
    } catch (error) {
      if (!noDirectIo.has(errnoOf(error) ?? "")) throw error;
      // Some file systems refuse only after they made the file.
      await removeFile(this.#files, path);
      this.#isDirect = false;
      return false;
    }
  }

  /** Direct I/O writes whole pages: what is too much is cut off again. */
  async #writeEnd(handle: OpenFile, end: Uint8Array, offsetBytes: number): Promise<void> {
    const page = await this.#endPages.take();
    try {
      page.set(end);
      await writeParts(handle, [page]);
    } finally {
      this.#endPages.give(page);
    }
    await handle.truncate(offsetBytes + end.byteLength);
  }
}

async function writeParts(
  handle: OpenFile,
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
