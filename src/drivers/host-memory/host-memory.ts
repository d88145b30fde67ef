/** Files in which a host remembers something beyond this process, in one folder for each subject. */
import { createHash } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";

import { KluisError } from "#base/kluis-error.ts";

/** Files of one subject that are read; more are left by nothing but crashes. */
const filesMax = 64;
/** Largest file that is read. */
const fileBytesMax = 64 * 1024;
const namePattern = /^[0-9a-f]{64}$/;
/** A file that is being written, by the process of that number. */
const draftPattern = /^[0-9a-f]{64}\.([0-9]+)$/;

/** One file. */
export interface MemoryFile {
  readonly name: string;
  readonly content: Uint8Array;
}

/** See the file's head. Processes that write at once keep what each has written. */
export class HostMemory {
  readonly #folder: string;

  /** @param folder Absolute; made when something is to be remembered. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** All that is remembered of `subject`, a name of one path segment. ArgumentInvalid (after-change). */
  async read(subject: string): Promise<readonly MemoryFile[]> {
    const folder = join(this.#folder, subject);
    const files: MemoryFile[] = [];
    try {
      for (const name of (await readNames(folder)).slice(0, filesMax)) {
        const content = await readIfThere(join(folder, name));
        if (content !== undefined) files.push({ name, content });
      }
    } catch (error) {
      throw memoryError("read", folder, error);
    }
    return files;
  }

  /**
   * Remembers `content` in place of the files named by `old`; durable on return, and before those are
   * removed. ArgumentInvalid (after-change) where the folder cannot be written.
   */
  async replace(subject: string, old: readonly string[], content: Uint8Array): Promise<void> {
    const folder = join(this.#folder, subject);
    const name = createHash("sha256").update(content).digest("hex");
    try {
      const made = await mkdir(folder, { recursive: true, mode: 0o700 });
      await writeFile(join(folder, `${name}.${process.pid}`), content);
      await rename(join(folder, `${name}.${process.pid}`), join(folder, name));
      await sync(folder);
      // Where there was a file before, its writer has made the folder durable.
      if (made !== undefined || old.length === 0) await sync(dirname(folder));
      for (const one of old) if (one !== name) await rm(join(folder, one), { force: true });
      await removeDrafts(folder);
    } catch (error) {
      throw memoryError("write", folder, error);
    }
  }
}

/** Removes what processes that are gone have not finished. */
async function removeDrafts(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const pid = draftPattern.exec(name)?.[1];
    if (pid === undefined || (await isThere(`/proc/${pid}`))) continue;
    await rm(join(folder, name), { force: true });
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/** Names of whole files. */
async function readNames(folder: string): Promise<readonly string[]> {
  try {
    return (await readdir(folder)).filter((name) => namePattern.test(name)).sort();
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** `undefined` where another process has just replaced it, and for what this class has not written. */
async function readIfThere(path: string): Promise<Uint8Array | undefined> {
  try {
    const content = await readFile(path);
    return content.byteLength > fileBytesMax ? undefined : new Uint8Array(content);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

async function writeFile(path: string, content: Uint8Array): Promise<void> {
  await using file = await open(path, "w", 0o600);
  await file.writeFile(content);
  await file.sync();
}

async function sync(folder: string): Promise<void> {
  await using handle = await open(folder, "r");
  await handle.sync();
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}

function memoryError(verb: "read" | "write", folder: string, cause: unknown): KluisError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new KluisError(
    "ArgumentInvalid",
    `Cannot ${verb} what this host remembers in "${folder}": ${reason}`,
    { cause },
  );
}
