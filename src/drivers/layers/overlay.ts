/** Making layers, and reading what an image says of itself. */
import { open, rm } from "node:fs/promises";
import { isAbsolute } from "node:path";

import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { readDeviceBytes } from "#drivers/disk/block-device.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import type { DiskLayer } from "./disk-layer.ts";
import { syncFile } from "./durable-file.ts";

/** Clusters of 32 subclusters: a write of 4 KiB allocates 4 KiB, and shows as that. */
const LAYER_OPTIONS = "extended_l2=on,cluster_size=128k";
const CREATE_TIMEOUT_MS = 30_000;

const qcow2Magic = Buffer.from("QFI\xfb", "latin1");
const qcow2BackingOffset = 8;
const qcow2BackingLengthOffset = 16;
const qcow2SizeOffset = 24;
const qcow2SnapshotsOffset = 60;
/** QEMU's own limit for the name of a backing file. */
const BACKING_NAME_BYTES_MAX = 1023;
const REBASE_TIMEOUT_MS = 60_000;
const MAP_TIMEOUT_MS = 60_000;
/** The metadata of a layer that was just made take less, for a disk of any size. */
const NEW_LAYER_BYTES_MAX = 1024 * 1024;

/** A layer to be made. */
export interface OverlayPlan {
  readonly path: string;
  /** The layer below; need not be readable by others. */
  readonly backing: DiskLayer;
  readonly sizeBytes: number;
}

/**
 * Makes an empty layer and its content durable; the caller syncs the folder. A file of that name is
 * left by a run that died before it was recorded, and is replaced. Errors: SnapshotFailed.
 */
export async function createOverlay(plan: OverlayPlan, signal?: AbortSignal): Promise<void> {
  assert(isAbsolute(plan.backing.path), "layers name each other by absolute paths");
  await rm(plan.path, { force: true });
  const backing = ["-u", "-b", plan.backing.path, "-F", plan.backing.format];
  const layout = ["-q", "-f", "qcow2", "-o", LAYER_OPTIONS, ...backing];
  const result = await runTool(
    "qemu-img",
    ["create", ...layout, "--", plan.path, String(plan.sizeBytes)],
    { timeoutMs: CREATE_TIMEOUT_MS, ...(signal === undefined ? {} : { signal }) },
  );
  assertToolSucceeded("qemu-img", result);
  await syncFile(plan.path);
}

/**
 * Size of the disk that an image holds, out of its header; safe while a VM writes it. Errors:
 * ImageNotFound, ImageInvalid (after-change).
 */
export async function readVirtualSize(layer: Pick<DiskLayer, "path" | "format">): Promise<number> {
  const { path, format } = layer;
  const { header, lengthBytes } = await readHeader(path);
  if (format === "raw") return lengthBytes;
  if (!isQcow2(header)) throw invalid(path, "it is described as qcow2 and is none");
  return Number(header.readBigUInt64BE(qcow2SizeOffset));
}

/**
 * Checks that a described image is what it is described as. Only before Kluis first runs a VM on it:
 * later a guest may write what it likes into a raw image, the first bytes of qcow2 too.
 */
export async function assertDescribedFormat(
  layer: Pick<DiskLayer, "path" | "format">,
): Promise<void> {
  await readVirtualSize(layer);
  const { header } = await readHeader(layer.path);
  if (layer.format === "raw" && isQcow2(header)) {
    throw invalid(layer.path, "it is described as raw and is qcow2");
  }
}

/** How many snapshots lie inside a layer, which are another program's. Errors: ImageInvalid. */
export async function countInnerSnapshots(path: string): Promise<number> {
  const { header } = await readHeader(path);
  if (!isQcow2(header)) throw invalid(path, "it is no qcow2 layer");
  return header.readUInt32BE(qcow2SnapshotsOffset);
}

/** The backing file that a layer's header names; `undefined` where it names none. */
export async function readBackingPath(path: string): Promise<string | undefined> {
  const { header } = await readHeader(path);
  if (!isQcow2(header)) throw invalid(path, "it is no qcow2 layer");
  const offsetBytes = Number(header.readBigUInt64BE(qcow2BackingOffset));
  const lengthBytes = header.readUInt32BE(qcow2BackingLengthOffset);
  if (offsetBytes === 0 || lengthBytes === 0) return undefined;
  if (lengthBytes > BACKING_NAME_BYTES_MAX) throw invalid(path, "its header is damaged");
  const name = Buffer.alloc(lengthBytes);
  const file = await open(path, "r");
  try {
    await file.read(name, 0, lengthBytes, offsetBytes);
  } finally {
    await file.close();
  }
  return name.toString("utf8");
}

/** Writes into the header of a layer that nobody has open what lies below it, durably. */
export async function rebaseOverlay(above: DiskLayer, below: DiskLayer): Promise<void> {
  const backing = ["-b", below.path, "-F", below.format];
  const args = ["rebase", "-q", "-u", "-f", above.format, ...backing, "--", above.path];
  const result = await runTool("qemu-img", args, { timeoutMs: REBASE_TIMEOUT_MS });
  assertToolSucceeded("qemu-img", result);
  await syncFile(above.path);
}

/**
 * Whether a layer holds nothing of its own; one that another program writes may hold something. The
 * layers below are not looked at, so they may be in use. A file that is no image yet, left by a run that died, is empty.
 */
export async function isOverlayEmpty(path: string): Promise<boolean> {
  const { header, lengthBytes } = await readHeader(path);
  if (!isQcow2(header)) return lengthBytes < NEW_LAYER_BYTES_MAX;
  const file = { driver: "file", filename: path };
  const alone = `json:${JSON.stringify({ driver: "qcow2", file, backing: null })}`;
  const args = ["map", "--output=json", "--", alone];
  const result = await runTool("qemu-img", args, { timeoutMs: MAP_TIMEOUT_MS });
  if (/Failed to get .* lock/.test(result.stderr)) return false;
  assertToolSucceeded("qemu-img", result);
  const extents = JSON.parse(result.stdout) as readonly { readonly present?: boolean }[];
  return extents.every((extent) => extent.present === false);
}

interface ImageHeader {
  readonly header: Buffer;
  readonly lengthBytes: number;
}

async function readHeader(path: string): Promise<ImageHeader> {
  try {
    const file = await open(path, "r");
    try {
      const status = await file.stat();
      const isDevice = status.isBlockDevice();
      if (!isDevice && !status.isFile()) throw invalid(path, "it is neither a file nor a device");
      const header = Buffer.alloc(qcow2SnapshotsOffset + 4);
      await file.read(header, 0, header.byteLength, 0);
      return { header, lengthBytes: isDevice ? await readDeviceBytes(path) : status.size };
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new KluisError("ImageNotFound", `Cannot open the image "${path}": it is not there`);
  }
}

function isQcow2(header: Buffer): boolean {
  return header.subarray(0, qcow2Magic.byteLength).equals(qcow2Magic);
}

function invalid(path: string, reason: string): KluisError {
  return new KluisError("ImageInvalid", `Cannot use the image "${path}": ${reason}`, {
    details: { path },
  });
}
