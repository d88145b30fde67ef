/** Writes raw targets: a new sparse file, or a block device in place. */
import { constants } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";

import { allEnded } from "#base/all-ended.ts";
import { isAligned } from "#base/aligned-memory.ts";
import { KluisError } from "#base/kluis-error.ts";
import { lastLine, runTool } from "#drivers/process/run-tool.ts";
import type { DiskWriter } from "#ports/disk.ts";
import { TargetFile, targetTooSmall, toTargetError } from "./target-file.ts";
import { FreshTargetWriter } from "./writer-state.ts";

/** Zeros are written in pieces of this size. */
const ZERO_PIECE_BYTES = 1024 * 1024;
/** How long a device without a command for zeros may take to be filled with them. */
const DEVICE_ZERO_TIMEOUT_MS = 24 * 3_600_000;

const zeros = new Uint8Array(ZERO_PIECE_BYTES);

/** What a raw target shall be. */
export interface RawTargetOptions {
  readonly path: string;
  readonly sizeBytes: number;
  readonly overwrite: boolean;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Makes a raw file: sparse, readable by its owner only, under a temporary name until commit.
 *
 * Errors: TargetExists, TargetNoSpace (after-change), TargetWriteFailed (backoff).
 */
export async function createRawFile(options: RawTargetOptions): Promise<DiskWriter> {
  const { path, sizeBytes } = options;
  const target = await TargetFile.plan(path, options.overwrite);
  let handle: FileHandle | undefined;
  let direct: FileHandle | undefined;
  try {
    handle = await open(target.tempPath, "wx", 0o600);
    await handle.truncate(sizeBytes);
    direct = await openDirect(target.tempPath);
  } catch (error) {
    await handle?.close();
    await target.remove();
    throw toTargetError(path, error);
  }
  const file = new OpenTarget(path, handle, direct);
  return new FreshTargetWriter(sizeBytes, {
    ...file.actions(),
    commit: async () => {
      // By the handle that wrote: once it is closed the kernel may forget that a write was lost.
      await file.syncAndClose();
      await target.commit();
    },
    close: async () => {
      await file.close();
      await target.remove();
    },
  });
}

/**
 * Opens a block device to be written in place, and fills it with zeros first, with the device's own
 * command where it has one. What lies behind `sizeBytes` on a larger device stays.
 *
 * Errors: TargetTooSmall, ImageInUse (after-change: mounted or part of a volume), TargetWriteFailed.
 */
export async function openDeviceTarget(
  options: RawTargetOptions & { readonly deviceBytes: number },
): Promise<DiskWriter> {
  const { deviceBytes, path, signal, sizeBytes } = options;
  if (deviceBytes < sizeBytes) {
    throw targetTooSmall(path, { haveBytes: deviceBytes, needBytes: sizeBytes });
  }
  // First alone, for a clear error: blkdiscard opens the device exclusively itself.
  const probe = await openDevice(path);
  await probe.close();
  const args = ["--zeroout", "--offset", "0", "--length", String(sizeBytes), "--", path];
  const result = await runTool("blkdiscard", args, {
    timeoutMs: DEVICE_ZERO_TIMEOUT_MS,
    ...(signal === undefined ? {} : { signal }),
  });
  if (result.exitCode !== 0) throw toTargetError(path, new Error(lastLine(result.stderr)));
  const file = await openTarget(path);
  return new FreshTargetWriter(sizeBytes, {
    ...file.actions(),
    commit: () => file.syncAndClose(),
    close: () => file.close(),
  });
}

/**
 * An open file or device that is written.
 *
 * Whole pages in aligned memory go past the page cache: a restored disk is larger than what the host
 * has to spare, and copying it there costs more than writing it. The kernel keeps both ways coherent.
 */
class OpenTarget {
  readonly #path: string;
  readonly #handle: FileHandle;
  /** For direct I/O; `undefined` where the file system has none. */
  readonly #direct: FileHandle | undefined;
  #isOpen = true;

  constructor(path: string, handle: FileHandle, direct: FileHandle | undefined) {
    this.#path = path;
    this.#handle = handle;
    this.#direct = direct;
  }

  actions(): {
    readonly write: (offsetBytes: number, bytes: Uint8Array) => Promise<void>;
    readonly overwriteWithZeros: (offsetBytes: number, lengthBytes: number) => Promise<void>;
  } {
    return {
      write: (offsetBytes, bytes) => this.#write(offsetBytes, bytes),
      overwriteWithZeros: async (offsetBytes, lengthBytes) => {
        for (let at = 0; at < lengthBytes; at += ZERO_PIECE_BYTES) {
          const pieceBytes = Math.min(ZERO_PIECE_BYTES, lengthBytes - at);
          await this.#write(offsetBytes + at, zeros.subarray(0, pieceBytes));
        }
      },
    };
  }

  async syncAndClose(): Promise<void> {
    try {
      await this.#handle.sync();
    } catch (error) {
      throw toTargetError(this.#path, error);
    }
    await this.close();
  }

  async close(): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    try {
      await allEnded([this.#direct, this.#handle].map(async (one) => await one?.close()));
    } catch (error) {
      // Network file systems tell only now that there was no space.
      throw toTargetError(this.#path, error);
    }
  }

  async #write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    try {
      if (isAligned(bytes, offsetBytes) && (await this.#writeDirect(offsetBytes, bytes))) return;
      await writeAll(this.#handle, offsetBytes, bytes);
    } catch (error) {
      throw toTargetError(this.#path, error);
    }
  }

  /** Returns false where direct I/O is refused; what it wrote until then is to be written again. */
  async #writeDirect(offsetBytes: number, bytes: Uint8Array): Promise<boolean> {
    if (this.#direct === undefined) return false;
    try {
      await writeAll(this.#direct, offsetBytes, bytes);
      return true;
    } catch (error) {
      if (!isNotDirect(error)) throw error;
      return false;
    }
  }
}

async function writeAll(handle: FileHandle, offsetBytes: number, bytes: Uint8Array): Promise<void> {
  let at = 0;
  while (at < bytes.byteLength) {
    const lengthBytes = bytes.byteLength - at;
    const { bytesWritten } = await handle.write(bytes, at, lengthBytes, offsetBytes + at);
    if (bytesWritten === 0) throw new Error("nothing was taken");
    at += bytesWritten;
  }
}

async function openDirect(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, constants.O_WRONLY | constants.O_DIRECT);
  } catch (error) {
    if (isNotDirect(error)) return undefined;
    throw error;
  }
}

/** Whether an error says that the file system, or this place of a file, has no direct I/O. */
function isNotDirect(error: unknown): boolean {
  const { code = "" } = error as NodeJS.ErrnoException;
  return code === "EINVAL" || code === "ENOTSUP" || code === "EOPNOTSUPP";
}

async function openTarget(path: string): Promise<OpenTarget> {
  const handle = await openDevice(path);
  try {
    return new OpenTarget(path, handle, await openDirect(path));
  } catch (error) {
    await handle.close();
    throw toTargetError(path, error);
  }
}

async function openDevice(path: string): Promise<FileHandle> {
  try {
    // Exclusive on a block device without O_CREAT means: not mounted, not part of a volume.
    return await open(path, constants.O_RDWR | constants.O_EXCL);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EBUSY") throw toTargetError(path, error);
    const reason = "it is mounted or part of a volume";
    throw new KluisError("ImageInUse", `Cannot write "${path}": ${reason}`, { cause: error });
  }
}
