/** Reading files of a store; internal to this folder. */
import { constants } from "node:fs";

import { KluisError } from "#base/kluis-error.ts";
import type { ByteRange } from "#ports/object-store.ts";
import { errnoOf } from "./file-errors.ts";
import type { FileInfo, FileSystem, OpenFile } from "./file-system.ts";
import { objectBytesMax, objectNotFound, rangePastEnd } from "./store-arguments.ts";

/** Opens a file for reading. What is no file (a FIFO, say) must not make the call wait for ever. */
export async function openForReading(files: FileSystem, path: string): Promise<OpenFile> {
  return files.open(path, constants.O_RDONLY | constants.O_NONBLOCK);
}

/** The whole object; the caller owns the bytes. */
export async function readWhole(handle: OpenFile, name: string): Promise<Uint8Array> {
  const info = await handle.stat({ bigint: true });
  if (!info.isFile()) throw objectNotFound(name);
  const sizeBytes = Number(info.size);
  if (sizeBytes > objectBytesMax) {
    throw new KluisError(
      "ObjectCorrupt",
      `Cannot read object "${name}": with ${sizeBytes} bytes it is larger than any object`,
      { details: { object: name } },
    );
  }
  return readRange(handle, name, { offsetBytes: 0, lengthBytes: sizeBytes });
}

/** One range of an object; ObjectCorrupt (never) where it is past the end. */
export async function readRange(
  handle: OpenFile,
  name: string,
  range: ByteRange,
): Promise<Uint8Array> {
  const { offsetBytes, lengthBytes } = range;
  // Not zeroed first, and with memory of its own, which the caller may hand to a worker.
  const buffer = Buffer.allocUnsafeSlow(lengthBytes);
  const doneBytes = await readInto(handle, buffer, offsetBytes);
  if (doneBytes < lengthBytes) {
    const info = await handle.stat({ bigint: true });
    throw info.isFile() ? rangePastEnd(name, range, Number(info.size)) : objectNotFound(name);
  }
  return new Uint8Array(buffer.buffer);
}

/** Fills `buffer` from `offsetBytes` on; returns how much there was. */
async function readInto(handle: OpenFile, buffer: Buffer, offsetBytes: number): Promise<number> {
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
export async function fileSize(files: FileSystem, path: string): Promise<number | undefined> {
  try {
    const info = await files.stat(path, { bigint: true });
    return info.isFile() ? Number(info.size) : undefined;
  } catch (error) {
    if (isAbsence(error)) return undefined;
    throw error;
  }
}

/** The folder at `path`; `undefined` where there is none. */
export async function readFolder(files: FileSystem, path: string): Promise<FileInfo | undefined> {
  try {
    const info = await files.stat(path, { bigint: true });
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
