/** Files that hold a secret: key files, and files with a passphrase or a recovery key. */
import { constants } from "node:fs";
import { open, rename, unlink, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import { choosePartPath, giveName } from "#drivers/process/part-file.ts";

/** What a file holds, as messages call it. */
export type SecretFileKind =
  | "key file"
  | "passphrase file"
  | "recovery key file"
  | "credentials file";

/** Most bytes of such a file. */
export const secretFileBytesMax = 4096;

const secretMode = 0o600;
const groupAndWorld = 0o077;

/**
 * Creates a file of mode 0600 with `content`; durable on return. Nothing is ever overwritten, and a
 * symbolic link is not followed. The name only ever stands for the whole content, whoever dies.
 *
 * Errors: ArgumentInvalid (after-change) where the path exists or cannot be written.
 */
export async function createSecretFile(
  kind: SecretFileKind,
  path: string,
  content: Uint8Array,
): Promise<void> {
  await writeDraft({ verb: "create", kind, path }, content, (draft) => giveName(draft, path));
}

/**
 * Puts `content` in place of that of a secret file; durable on return, and one or the other whoever
 * dies. Errors: ArgumentInvalid (after-change).
 */
export async function replaceSecretFile(
  kind: SecretFileKind,
  path: string,
  content: Uint8Array,
): Promise<void> {
  await writeDraft({ verb: "replace", kind, path }, content, (draft) => rename(draft, path));
}

/**
 * The content of a secret file. A regular file that its group or others may read or write is
 * refused; pipes (`<(pass show kluis)`) are as private as their process.
 *
 * Errors: ArgumentInvalid (after-change).
 */
export async function readSecretFile(kind: SecretFileKind, path: string): Promise<Uint8Array> {
  try {
    await using handle = await open(path, constants.O_RDONLY);
    const info = await handle.stat();
    if (info.isDirectory()) throw refusal(kind, path, "it is a folder");
    if (info.isFile() && (info.mode & groupAndWorld) !== 0) {
      const mode = (info.mode & 0o777).toString(8).padStart(4, "0");
      throw refusal(kind, path, `others may use it (mode ${mode}); run chmod 600 on it`);
    }
    const bytes = await readToEnd(handle);
    if (bytes.byteLength > secretFileBytesMax) throw refusal(kind, path, "it is too long");
    return bytes;
  } catch (error) {
    throw secretFileError({ verb: "read", kind, path }, error);
  }
}

/** What is done, for messages. */
interface Action {
  readonly verb: "create" | "read" | "replace";
  readonly kind: SecretFileKind;
  readonly path: string;
}

/** Writes the content under a name of its own, which `give` changes to the one it shall have. */
async function writeDraft(
  action: Action,
  content: Uint8Array,
  give: (draft: string) => Promise<void>,
): Promise<void> {
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  const { path } = action;
  try {
    const draft = await choosePartPath(path);
    const handle = await open(draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, secretMode);
    try {
      await fill(handle, content);
      await give(draft);
    } catch (error) {
      // Half a key is worse than none; the first error is the one that matters.
      await unlink(draft).catch(() => undefined);
      throw error;
    }
    await syncFolder(dirname(path));
  } catch (error) {
    throw secretFileError(action, error);
  }
}

async function fill(handle: FileHandle, content: Uint8Array): Promise<void> {
  try {
    await handle.writeFile(content);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  await folder.sync();
}

/** At most one byte more than is allowed, wherever a pipe ends. */
async function readToEnd(handle: FileHandle): Promise<Uint8Array> {
  const buffer = new Uint8Array(secretFileBytesMax + 1);
  let done = 0;
  while (done < buffer.byteLength) {
    const { bytesRead } = await handle.read(buffer, done, buffer.byteLength - done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}

const reasons: Readonly<Record<string, string>> = {
  EEXIST: "it exists",
  ENOENT: "there is no such file or folder",
  ENOTDIR: "a part of the path is no folder",
  EACCES: "access is denied",
  EPERM: "it is not permitted",
  EROFS: "the file system is read-only",
  ENOSPC: "the file system is full",
};

function secretFileError({ verb, kind, path }: Action, error: unknown): unknown {
  if (!(error instanceof Error) || !("syscall" in error)) return error;
  const errno = (error as NodeJS.ErrnoException).code ?? "";
  const reason = reasons[errno] ?? `the file system failed (${errno})`;
  return new KluisError("ArgumentInvalid", `Cannot ${verb} ${kind} "${path}": ${reason}`, {
    cause: error,
  });
}

function refusal(kind: SecretFileKind, path: string, reason: string): KluisError {
  return new KluisError("ArgumentInvalid", `Cannot use ${kind} "${path}": ${reason}`);
}
