/** What a store takes. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { isErrnoException } from "./errno.ts";

/**
 * Bytes of all files below `place`, or of the file that it is; 0 where there is nothing. Folders are
 * not counted: programs that spread their files over many would look worse than they are.
 */
export async function storedBytesOf(place: string): Promise<number> {
  let entries: readonly string[];
  try {
    if (!(await stat(place)).isDirectory()) return (await stat(place)).size;
    entries = await readdir(place, { recursive: true });
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return 0;
    throw error;
  }
  let bytes = 0;
  for (const entry of entries) {
    const status = await stat(join(place, entry));
    if (status.isFile()) bytes += status.size;
  }
  return bytes;
}
