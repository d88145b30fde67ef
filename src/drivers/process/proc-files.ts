/** Reading below /proc, where processes end at any time. */
import { readFile } from "node:fs/promises";

/** What a reading gives; `unseen` where the process has ended meanwhile, or is not ours to look at. */
export async function orUnseen<T>(reading: Promise<T>, unseen: T): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (["ENOENT", "ENOTDIR", "ESRCH", "EACCES", "EPERM"].includes(code)) return unseen;
    throw error;
  }
}

/** The text of a file; empty where it cannot be seen. */
export function readOrUnseen(path: string): Promise<string> {
  return orUnseen(readFile(path, "utf8"), "");
}
