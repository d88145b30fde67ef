/**
 * Workload D: a dense disk of 2 GiB with real data, an ext4 file system filled from this machine's
 * /usr. Files are chosen by a hash of their path, so that programs, libraries, texts and pictures
 * come in the proportions that the machine has them in. A file with several names comes once, as it
 * lies on the machine's disk once. No two machines have the same image.
 */
import { createHash } from "node:crypto";
import {
  copyFileSync,
  type Dirent,
  mkdirSync,
  readdirSync,
  rmSync,
  type Stats,
  statSync,
} from "node:fs";
import { dirname, join } from "node:path";

import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";

import { isErrnoException } from "../errno.ts";
import { openCachedFolder, syncFile } from "./cached-folder.ts";

/** Changes with anything that changes the content. */
const version = 2;
const sourceFolder = "/usr";
const blockBytes = 4096;
const mebibyte = 1024 * 1024;
/** Of the disk's blocks, for files and folders; the rest is what the file system itself takes. */
const fillShare = 0.965;
const inodeBytes = 256;
/** So little room is left free, or else small files alone would fill the end. */
const leftMax = mebibyte;
const toolTimeoutMs = 10 * 60_000;
/** Folders below /usr that are read; more are no machine's. */
const foldersMax = 200_000;

/** The disk, in a file that nobody may change. */
export interface WorkloadD {
  /** Raw. */
  readonly image: string;
  readonly sizeBytes: number;
  /** Bytes of the image that are no hole. */
  readonly allocatedBytes: number;
}

interface ChosenFile {
  readonly path: string;
  readonly sizeBytes: number;
}

/** The image of workload D; at `scale` 1 as the head says, else smaller. */
export async function openWorkloadD(
  options: { readonly scale: number },
  signal: AbortSignal,
): Promise<WorkloadD> {
  const sizeBytes = Math.max(16, Math.round(2048 * options.scale)) * mebibyte;
  const name = `workload-d${version}-${sizeBytes / mebibyte}`;
  const { folder, facts } = await openCachedFolder(name, async (draft) => {
    await makeImage(draft, sizeBytes, signal);
    return { sizeBytes };
  });
  const image = join(folder, "image.raw");
  const { blocks } = statSync(image);
  return { image, sizeBytes: facts.sizeBytes, allocatedBytes: blocks * 512 };
}

async function makeImage(folder: string, sizeBytes: number, signal: AbortSignal): Promise<void> {
  const tree = join(folder, "tree");
  const files = chooseFiles(listFiles(signal), sizeBytes);
  for (const { path } of files) {
    signal.throwIfAborted();
    const target = join(tree, path);
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(join(sourceFolder, path), target);
  }
  const folders = new Set(files.flatMap(({ path }) => ancestors(path)));
  const inodes = Math.ceil((files.length + folders.size) * 1.05) + 64;
  const layout = ["-q", "-F", "-t", "ext4", "-b", String(blockBytes), "-I", String(inodeBytes)];
  const features = ["-m", "0", "-N", String(inodes), "-O", "^has_journal,^resize_inode"];
  const image = join(folder, "image.raw");
  const args = [...layout, ...features, "-d", tree, image, `${sizeBytes / 1024}k`];
  assertToolSucceeded(
    "mke2fs",
    await runTool("mke2fs", args, { timeoutMs: toolTimeoutMs, signal }),
  );
  rmSync(tree, { recursive: true });
  await syncFile(image);
}

/** Files in the order of their hashes, until the disk is full. */
function chooseFiles(files: readonly ChosenFile[], sizeBytes: number): readonly ChosenFile[] {
  const chosen: ChosenFile[] = [];
  const folders = new Set<string>();
  let left = sizeBytes * fillShare;
  for (const file of files) {
    if (left < leftMax) break;
    const fresh = ancestors(file.path).filter((path) => !folders.has(path));
    const blocks = Math.ceil(file.sizeBytes / blockBytes) + fresh.length;
    const cost = blocks * blockBytes + (1 + fresh.length) * inodeBytes;
    if (cost > left) continue;
    left -= cost;
    for (const path of fresh) folders.add(path);
    chosen.push(file);
  }
  return chosen;
}

/** Calls that wait: a hundred thousand of the others take longer than their work. */
function listFiles(signal: AbortSignal): readonly ChosenFile[] {
  const files: (ChosenFile & { readonly rank: string })[] = [];
  const inodes = new Set<string>();
  const folders = [""];
  let visited = 0;
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    signal.throwIfAborted();
    if (++visited > foldersMax) throw new Error(`Cannot read ${sourceFolder}: too many folders`);
    for (const entry of readdirSync(join(sourceFolder, folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) folders.push(path);
      const status = statusOf(path, entry);
      if (status === undefined || status.size === 0) continue;
      const inode = `${status.dev}:${status.ino}`;
      if (inodes.has(inode)) continue;
      inodes.add(inode);
      files.push({ path, sizeBytes: status.size, rank: rankOf(path) });
    }
  }
  return files.sort((a, b) => (a.rank < b.rank ? -1 : 1));
}

/** `undefined` for what is no file, or is gone by now. */
function statusOf(path: string, entry: Dirent): Stats | undefined {
  if (!entry.isFile()) return undefined;
  try {
    return statSync(join(sourceFolder, path));
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined;
    throw error;
  }
}

function rankOf(path: string): string {
  return createHash("sha256").update(path).digest("hex");
}

function ancestors(path: string): readonly string[] {
  const parts = path.split("/").slice(0, -1);
  return parts.map((_, at) => parts.slice(0, at + 1).join("/"));
}
