/**
 * The system calls that a file store makes, so that a test can put a file system of its own below
 * it; internal to this folder and to tests. The signatures are those of `node:fs/promises`.
 */
import { link, mkdir, open, readdir, stat, unlink } from "node:fs/promises";

/** What stat(2) says of a file or a folder. */
export interface FileInfo {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly size: bigint;
  readonly mtimeMs: bigint;
  isFile(): boolean;
  isDirectory(): boolean;
}

/** One name in a folder. */
export interface FolderEntry {
  readonly name: string;
  isFile(): boolean;
  isDirectory(): boolean;
}

/** An open file or folder; disposing of it closes it. */
export interface OpenFile extends AsyncDisposable {
  /** pread(2); 0 bytes at the end. */
  read(
    target: Uint8Array,
    offsetBytes: number,
    lengthBytes: number,
    positionBytes: number,
  ): Promise<{ readonly bytesRead: number }>;
  /** writev(2) where the last write ended; may write less than all. */
  writev(parts: readonly Uint8Array[]): Promise<{ readonly bytesWritten: number }>;
  /** ftruncate(2). */
  truncate(sizeBytes: number): Promise<void>;
  /** fsync(2): content and size of a file, or the entries of a folder. */
  sync(): Promise<void>;
  stat(options: { readonly bigint: true }): Promise<FileInfo>;
  close(): Promise<void>;
}

/** The calls. Their errors carry `code` and `syscall`, as those of Node do. */
export interface FileSystem {
  open(path: string, flags: number, mode?: number): Promise<OpenFile>;
  link(path: string, newPath: string): Promise<void>;
  unlink(path: string): Promise<void>;
  mkdir(path: string, options: { readonly mode: number }): Promise<unknown>;
  readdir(path: string, options: { readonly withFileTypes: true }): Promise<readonly FolderEntry[]>;
  stat(path: string, options: { readonly bigint: true }): Promise<FileInfo>;
}

/** The file system of this machine. */
export const systemFiles: FileSystem = { open, link, unlink, mkdir, readdir, stat };
