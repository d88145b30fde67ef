/** Copies of frozen layers by qemu-img: what a recovery point must hold, by a program that is not ours. */
import { open, readdir, type FileHandle } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

import { pageBytes } from "#formats/geometry.ts";
import { readTool } from "../../../lab/tools.ts";
import { findPages } from "./disk-model.ts";

const chunkPages = 256;

/** The file that a machine writes when it runs: the image, or the newest layer beside it. */
export async function findActiveLayer(imagePath: string): Promise<string> {
  const prefix = `${basename(imagePath)}.kluis-`;
  let newest = { number: 0, path: imagePath };
  for (const name of await readdir(dirname(imagePath))) {
    if (!name.startsWith(prefix)) continue;
    const number = Number.parseInt(name.slice(prefix.length), 10);
    if (number > newest.number) newest = { number, path: join(dirname(imagePath), name) };
  }
  return newest.path;
}

/**
 * Writes the disk as it was at the last snapshot: what lies below the layer that is written since.
 *
 * @param imagePath The original image.
 */
export async function copyFrozenDisk(imagePath: string, rawPath: string): Promise<void> {
  const active = await findActiveLayer(imagePath);
  const info = JSON.parse(
    await readTool("qemu-img", ["info", "-U", "--output=json", active]),
  ) as Readonly<Record<string, string | undefined>>;
  const frozen = info["full-backing-filename"];
  const format = info["backing-filename-format"];
  if (frozen === undefined || format === undefined) throw new Error(`"${active}" lies on nothing`);
  await readTool("qemu-img", ["convert", "-f", format, "-O", "raw", frozen, rawPath]);
}

/**
 * Numbers of the pages in which two files differ; what one alone has counts, and a file that is not
 * there has nothing.
 */
export async function findFilePages(pathA: string, pathB: string): Promise<readonly number[]> {
  await using a = await openIfThere(pathA);
  await using b = await openIfThere(pathB);
  const pages: number[] = [];
  const [chunkA, chunkB] = [
    Buffer.allocUnsafe(chunkPages * pageBytes),
    Buffer.allocUnsafe(chunkPages * pageBytes),
  ];
  for (let first = 0; ; first += chunkPages) {
    const [left, right] = await Promise.all([
      readChunk(a, chunkA, first),
      readChunk(b, chunkB, first),
    ]);
    if (left.byteLength === 0 && right.byteLength === 0) return pages;
    for (const page of findPages(left, right)) pages.push(first + page);
  }
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Reads into `chunk`; shorter at the end of the file only: a read of a regular file is. */
async function readChunk(
  file: FileHandle | undefined,
  chunk: Buffer,
  firstPage: number,
): Promise<Buffer> {
  const read = await file?.read(chunk, 0, chunk.byteLength, firstPage * pageBytes);
  return chunk.subarray(0, read?.bytesRead ?? 0);
}
