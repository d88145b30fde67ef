/** Reads a raw image or a block device without any process in between. */
import { constants, read, readSync } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";

import { assert } from "#base/assert.ts";
import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { assertInsideDisk } from "#base/range.ts";
import { readToolLines } from "#drivers/process/tool-lines.ts";
import type { DiskReader, Extent } from "#ports/disk.ts";
import { alignExtents } from "./extents.ts";
import {
  assertSameFile,
  assertSameState,
  readReferenceState,
  type FileState,
} from "./file-state.ts";
import { imageInvalid, type ImageInfo } from "./image-info.ts";
import { isImageWritten } from "./image-lock.ts";
import { isOnLocalFileSystem } from "./local-file-system.ts";

/** As many as Node's thread pool takes at once. */
const RAW_READS_IN_FLIGHT = 4;
/**
 * Reads of so many bytes from a file system of this host are made in this thread: a page from the page
 * cache takes 2 µs of processor time there, and 11 by way of the thread pool, which has to be woken.
 * Never from a device or by a network: what hangs there must not stop leases, watches and time limits.
 */
const QUICK_READ_BYTES_MAX = 64 * 1024;
/** A read that takes longer came from the disk: the next ones go to the pool, several at once. */
const QUICK_READ_MS_MAX = 0.1;
/** So many, before one is tried in this thread again. */
const READS_AFTER_SLOW = 64;
/** How long qemu-img may look for holes: it asks the file system once for each. */
const RAW_EXTENTS_TIMEOUT_MS = 3_600_000;

/** How a raw image is opened. */
export interface RawReaderOptions {
  /** Whether a device may be open with us in as many programs as like to read it. Default: no. */
  readonly isShared?: boolean | undefined;
}

/**
 * Opens a raw image that nobody writes.
 *
 * Errors: ImageInUse (after-change) where a QEMU process may write it or a file system on it is
 * mounted; ImageChangedDuringRead (after-change) where it is being written this moment.
 */
export async function openRawReader(
  info: ImageInfo,
  options: RawReaderOptions = {},
): Promise<{ readonly reader: DiskReader; readonly state: FileState }> {
  const handle = await openHandle(info, options);
  try {
    if (await isImageWritten(handle)) throw inUse(info.path);
    const state = await readReferenceState(info.path);
    await assertSameFile(handle, info.path, state);
    const mayReadHere = !info.isBlockDevice && (await isOnLocalFileSystem(info.path));
    return { reader: new RawReader(info, handle, { state, mayReadHere }), state };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

class RawReader implements DiskReader {
  readonly sizeBytes: number;
  readonly readsInFlight = RAW_READS_IN_FLIGHT;
  readonly #info: ImageInfo;
  readonly #handle: FileHandle;
  readonly #state: FileState;
  /** Longest read that is made in this thread. */
  readonly #quickBytesMax: number;
  /** Where the file ends; what a VM sees behind it, up to a whole sector, are zeros. */
  readonly #fileBytes: number;
  readonly #reads = new Set<Promise<void>>();
  #isOpen = true;
  /** Reads that go to the thread pool, whatever their size. */
  #pooledReads = 0;

  constructor(
    info: ImageInfo,
    handle: FileHandle,
    { state, mayReadHere }: { readonly state: FileState; readonly mayReadHere: boolean },
  ) {
    this.#info = info;
    this.#handle = handle;
    this.#state = state;
    this.#quickBytesMax = mayReadHere ? QUICK_READ_BYTES_MAX : 0;
    this.sizeBytes = info.sizeBytes;
    this.#fileBytes = info.isBlockDevice ? info.sizeBytes : Number(state.sizeBytes);
  }

  async read(offsetBytes: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    assert(this.#isOpen, "the reader is open");
    assertInsideDisk(this.sizeBytes, offsetBytes, target.byteLength);
    signal?.throwIfAborted();
    const read = this.#fill(offsetBytes, target);
    const settled = read.catch(() => undefined);
    this.#reads.add(settled);
    try {
      await read;
    } finally {
      this.#reads.delete(settled);
    }
    // A read that has begun cannot be recalled: it is waited for, and then counts as aborted.
    signal?.throwIfAborted();
  }

  async *extents(signal?: AbortSignal): AsyncGenerator<Extent, void, undefined> {
    assert(this.#isOpen, "the reader is open");
    yield* alignExtents(mapExtents(this.#info, signal), this.sizeBytes);
  }

  async assertUnchanged(): Promise<void> {
    await assertSameState(this.#info.path, this.#state);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    await Promise.all(this.#reads);
    await this.#handle.close();
  }

  async #fill(offsetBytes: number, target: Uint8Array): Promise<void> {
    const inFileBytes = Math.min(target.byteLength, Math.max(0, this.#fileBytes - offsetBytes));
    target.fill(0, inFileBytes);
    let at = 0;
    while (at < inFileBytes) {
      const bytesRead = await this.#readOnce(offsetBytes + at, target.subarray(at, inFileBytes));
      if (bytesRead === 0) throw this.#failed(offsetBytes + at, "the file ends there");
      at += bytesRead;
    }
  }

  async #readOnce(offsetBytes: number, target: Uint8Array): Promise<number> {
    try {
      if (target.byteLength > this.#quickBytesMax || this.#pooledReads > 0) {
        this.#pooledReads = Math.max(0, this.#pooledReads - 1);
        return await readAt(this.#handle.fd, target, offsetBytes);
      }
      return this.#readHere(offsetBytes, target);
    } catch (error) {
      throw this.#failed(offsetBytes, (error as Error).message, error);
    }
  }

  #readHere(offsetBytes: number, target: Uint8Array): number {
    const startMs = systemClock.monotonicMs();
    const bytesRead = readSync(this.#handle.fd, target, 0, target.byteLength, offsetBytes);
    const tookMs = systemClock.monotonicMs() - startMs;
    if (tookMs > QUICK_READ_MS_MAX) this.#pooledReads = READS_AFTER_SLOW;
    return bytesRead;
  }

  #failed(offsetBytes: number, reason: string, cause?: unknown): KluisError {
    return new KluisError(
      "DiskReadFailed",
      `Cannot read image "${this.#info.path}" at ${String(offsetBytes)}: ${reason}`,
      { details: { offsetBytes }, cause },
    );
  }
}

/** As `FileHandle.read`, which takes twice as long for a page. */
function readAt(file: number, target: Uint8Array, offsetBytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(file, target, 0, target.byteLength, offsetBytes, (error, bytesRead) => {
      if (error === null) resolve(bytesRead);
      else reject(error);
    });
  });
}

async function openHandle(info: ImageInfo, options: RawReaderOptions): Promise<FileHandle> {
  try {
    // Exclusive on a block device without O_CREAT means: not mounted, not part of a volume.
    const isAlone = info.isBlockDevice && options.isShared !== true;
    const flags = isAlone ? constants.O_RDONLY | constants.O_EXCL : constants.O_RDONLY;
    return await open(info.path, flags);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EBUSY") throw inUse(info.path);
    throw imageInvalid(info.path, (error as Error).message);
  }
}

/** Data and holes of a raw image as the file system knows them, by way of qemu-img. */
async function* mapExtents(info: ImageInfo, signal?: AbortSignal): AsyncGenerator<Extent, void> {
  const args = ["map", "--output=json", "-f", "raw", "--", info.path];
  const options = {
    timeoutMs: RAW_EXTENTS_TIMEOUT_MS,
    ...(signal === undefined ? {} : { signal }),
  };
  for await (const line of readToolLines("qemu-img", args, options)) {
    const extent = parseMapLine(line);
    if (extent === "none") continue;
    if (extent === undefined)
      throw imageInvalid(info.path, "qemu-img map prints what is no extent");
    yield extent;
  }
}

/** One line of `qemu-img map --output=json`; `none` for a line without extent. */
export function parseMapLine(line: string): Extent | "none" | undefined {
  const text = line
    .trim()
    .replace(/^\[/, "")
    .replace(/[\],]+$/, "");
  if (text === "") return "none";
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { start, length, zero } = (value ?? {}) as Readonly<Record<string, unknown>>;
  if (!isNatural(start) || !isNatural(length) || length === 0 || typeof zero !== "boolean") {
    return undefined;
  }
  return { offsetBytes: start, lengthBytes: length, kind: zero ? "zero" : "data" };
}

function isNatural(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function inUse(path: string): KluisError {
  return new KluisError(
    "ImageInUse",
    `Cannot open image "${path}": another program has it open for writing`,
  );
}
