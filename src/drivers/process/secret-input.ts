/** Text or bytes that a program reads from its standard input and that lie nowhere under a name. */
import { constants } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";

import { KluisError } from "#base/kluis-error.ts";

/** In memory on every Linux. */
const FOLDER = "/dev/shm";
/** Linux's __O_TMPFILE, which Node does not name: a file that never has a name. */
const TMPFILE = 0o20_000_000;

/**
 * A file without a name that holds `text`; the kernel frees it when we and who was given it have
 * closed it, however we end. A program that opens /dev/stdin reads it from its start. (Node's pipes
 * are sockets, which cannot be opened by a path.) The caller closes it. Errors: ToolFailed.
 */
export async function openSecretInput(text: string | Uint8Array): Promise<FileHandle> {
  try {
    const file = await open(FOLDER, TMPFILE | constants.O_DIRECTORY | constants.O_RDWR, 0o600);
    try {
      await file.writeFile(text);
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  } catch (error) {
    const { message } = error as Error;
    throw new KluisError("ToolFailed", `Cannot hold text for a program in ${FOLDER}: ${message}`, {
      cause: error,
    });
  }
}
