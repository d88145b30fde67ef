/** Reading files of a store; internal to this folder. */
import { constants, type BigIntStats } from "node:fs";
import { open, stat, type FileHandle } from "node:fs/promises";

import { KluisError } from "#base/kluis-error.ts";
import type { ByteRange } from "#ports/object-store.ts";
import { errnoOf } from "./file-errors.ts";
import { objectBytesMax, objectNotFound, rangePastEnd } from "./store-arguments.ts";

/** Opens a file for reading. What is no file (a FIFO, say) must not make the call wait for ever. */
export async function openForReading(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | constants.O_NONBLOCK);
}

/** The whole object; the caller owns the bytes. */
export async function readWhole(handle: FileHandle, name: string): Promise<Uint8Array> {
  const info = await handle.stat();
  if (!info.isFile()) throw objectNotFound(name);
  if (info.size > objectBytesMax) {
    throw new KluisError(
      "ObjectCorrupt",
      `Cannot read object "${name}": with ${info.size} bytes it is larger than any object`,
      { details: { object: name } },
    );
  }
  return readRange(handle, name, { offsetBytes: 0, lengthBytes: info.size });
}

/** One range of an object; ObjectCorrupt (never) where it is past the end. */
export async function readRange(
  handle: FileHandle,
  name: string,
  range: ByteRange,
): Promise<Uint8Array> {
  const { offsetBytes, lengthBytes } = range;
  // Not zeroed first, and with memory of its own, which the caller may hand to a worker.
  const buffer = Buffer.allocUnsafeSlow(lengthBytes);
  const doneBytes = await readInto(handle, buffer, offsetBytes);
  if (doneBytes < lengthBytes) {
    const info = await handle.stat();
    throw info.isFile() ? rangePastEnd(name, range, info.size) : objectNotFound(name);
  }
  return new Uint8Array(buffer.buffer);
}

/** Fills `buffer` from `offsetBytes` on; returns how much there was. */
async function readInto(handle: FileHandle, buffer: Buffer, offsetBytes: number): Promise<number> {
  let done = 0;
  while (done < buffer.byteLength) {
    const left = buffer.byteLength - done;
    try {
      const { bytesRead } = await handle.read(buffer, done, left, offsetBytes + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    } catch (error) {
      if (errnoOf(error) === "EISDIR") break;
      throw error;
    }
  }
  return done;
}

/** Size of the file at `path`; `undefined` where there is none. */
export async function fileSize(path: string): Promise<number | undefined> {
  try {
    const info = await stat(path);
    return info.isFile() ? info.size : undefined;
  } catch (error) {
    if (isAbsence(error)) return undefined;
    throw error;
  }
}

/** The folder at `path`; `undefined` where there is none. */
export async function readFolder(path: string): Promise<BigIntStats | undefined> {
  try {
    const info = await stat(path, { bigint: true });
    return info.isDirectory() ? info : undefined;
  } catch (error) {
    if (isAbsence(error)) return undefined;
    throw error;
  }
}

/** Whether an error says that there is nothing of that name. */
export function isAbsence(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno === "ENOENT" || errno === "ENOTDIR";
}
