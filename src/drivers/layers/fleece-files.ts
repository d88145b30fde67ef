/** The files that a fleece copies to: where, how large at most, and whose. */
import { chmod, chown, stat, statfs, truncate } from "node:fs/promises";
import { dirname } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { removeDurably } from "./durable-file.ts";

const CREATE_TIMEOUT_MS = 30_000;
/** With less room than this an instant would not live long enough to be read. */
const ROOM_BYTES_MIN = 16 * 1024 * 1024;
/** Beside the copies a qcow2 needs its tables: far less than a hundredth, and this for an empty one. */
const TABLE_BYTES = 1024 * 1024;
const CLUSTER_BYTES = 64 * 1024;

/** A file for the copies of a disk whose image is at `imagePath`, as this process sees QEMU's. */
export interface FleeceFile {
  readonly path: string;
  readonly imagePath: string;
  /** Of the disk. */
  readonly sizeBytes: number;
  readonly limitBytes: number;
}

/** The file for copies of a disk; `stem` is that of layerStem. */
export function fleecePath(stem: string): string {
  return `${stem}.kluis-fleece`;
}

/** An image of a disk, what its copies' path begins with, and the size that the guest sees. */
export interface FleecedImage {
  readonly path: string;
  readonly stem: string;
  readonly sizeBytes: number;
}

/**
 * Plans a file for each image, in the same order: large enough for a copy of the whole disk, or for
 * what is free less the reserve, shared by those on one file system. SnapshotNoSpace (after-change).
 */
export async function planFleeceFiles(
  images: readonly FleecedImage[],
  { reserveBytes }: { readonly reserveBytes: number },
): Promise<readonly FleeceFile[]> {
  const folders = images.map(({ stem }) => dirname(stem));
  const devices = await Promise.all(folders.map(async (folder) => (await stat(folder)).dev));
  return await Promise.all(
    images.map(async ({ path: imagePath, stem, sizeBytes }, at) => {
      const folder = folders[at] ?? "";
      const { bavail, bsize } = await statfs(folder);
      const beside = devices.filter((device) => device === devices[at]).length;
      const roomBytes = Math.floor((bavail * bsize - reserveBytes) / beside);
      if (roomBytes < ROOM_BYTES_MIN) throw noRoom(folder, Math.max(0, roomBytes));
      const needBytes = sizeBytes + Math.ceil(sizeBytes / 100) + TABLE_BYTES;
      const clusters = Math.ceil(Math.min(roomBytes, needBytes) / CLUSTER_BYTES);
      const limitBytes = clusters * CLUSTER_BYTES;
      return { path: fleecePath(stem), imagePath, sizeBytes, limitBytes };
    }),
  );
}

function noRoom(folder: string, freeBytes: number): KluisError {
  const neededBytes = ROOM_BYTES_MIN;
  const has = `"${folder}" has ${String(freeBytes)} bytes for the copies of a disk`;
  return new KluisError(
    "SnapshotNoSpace",
    `Cannot take an instant: ${has}, ${String(neededBytes)} are needed`,
    { details: { folder, freeBytes, neededBytes } },
  );
}

/** Makes the files, empty. Whoever may open the disk may open its copies, nobody else. */
export async function createFleeceFiles(files: readonly FleeceFile[]): Promise<void> {
  for (const { imagePath, limitBytes, path, sizeBytes } of files) {
    // One that a dead run left is not in use any more.
    await removeDurably([path]);
    const args = ["create", "-q", "-f", "qcow2", "--", path, String(sizeBytes)];
    const result = await runTool("qemu-img", args, { timeoutMs: CREATE_TIMEOUT_MS });
    assertToolSucceeded("qemu-img", result);
    await truncate(path, limitBytes);
    const image = await stat(imagePath);
    await chmod(path, image.mode & 0o660);
    const own = await stat(path);
    const isSame = own.uid === image.uid && own.gid === image.gid;
    if (!isSame) await chown(path, image.uid, image.gid);
  }
}
