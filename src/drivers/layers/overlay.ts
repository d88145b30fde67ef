/** Making layers, and reading what an image says of itself. */
import { open, rm } from "node:fs/promises";
import { isAbsolute } from "node:path";

import { assert } from "#base/assert.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { readDeviceBytes } from "#drivers/disk/block-device.ts";
import { runMeasured, withImageKey } from "#drivers/disk/image-key.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { qemuFormat, type DiskLayer } from "./disk-layer.ts";
import { syncFile } from "./durable-file.ts";
import { assertKeyOpens, createSealed } from "./encrypted-layer.ts";
import { toLayerNode, type OpenedLayer } from "./layer-node.ts";

/** Clusters of 32 subclusters: a write of 4 KiB allocates 4 KiB, and shows as that. */
const LAYER_OPTIONS = "extended_l2=on,cluster_size=128k";
const CREATE_TIMEOUT_MS = 30_000;

const qcow2Magic = Buffer.from("QFI\xfb", "latin1");
const qcow2BackingOffset = 8;
const qcow2BackingLengthOffset = 16;
const qcow2SizeOffset = 24;
const qcow2CryptOffset = 32;
const qcow2CryptLuks = 2;
const qcow2SnapshotsOffset = 60;
const luksMagic = Buffer.from("LUKS\xba\xbe", "latin1");
const luksVersionOffset = 6;
const luksPayloadOffset = 104;
const SECTOR_BYTES = 512;
/** Holds all fields above. */
const HEADER_BYTES = 512;
/** QEMU's own limit for the name of a backing file. */
const BACKING_NAME_BYTES_MAX = 1023;
const REBASE_TIMEOUT_MS = 60_000;
const MAP_TIMEOUT_MS = 60_000;
/** The metadata of a layer that was just made take less, for a disk of any size. */
const NEW_LAYER_BYTES_MAX = 1024 * 1024;
/** With room for eight key slots. */
const NEW_SEALED_BYTES_MAX = 4 * 1024 * 1024;

/** A layer to be made. */
export interface OverlayPlan {
  readonly path: string;
  /** The layer below; need not be readable by others. */
  readonly backing: DiskLayer;
  readonly sizeBytes: number;
  /** Where the disk is encrypted, and so is the layer. */
  readonly seal?: { readonly passphrase: Uint8Array; readonly original: DiskLayer };
}

/**
 * Makes an empty layer and its content durable; the caller syncs the folder. A file of that name is
 * left by a run that died before it was recorded, and is replaced. Errors: SnapshotFailed;
 * DiskKeyUnusable (after-change) where the passphrase does not open the layer below.
 */
export async function createOverlay(plan: OverlayPlan, signal?: AbortSignal): Promise<void> {
  const { path, backing, seal } = plan;
  assert(isAbsolute(backing.path), "layers name each other by absolute paths");
  const isSealed = seal !== undefined;
  assert(isSealed === (backing.secretId !== undefined), "a layer is encrypted where its disk is");
  if (seal === undefined) {
    await createFile(plan, [], signal);
  } else {
    await assertKeyOpens(backing, seal.passphrase);
    await createSealed({ path, format: "qcow2" }, seal.original, (options) =>
      createFile(plan, options, signal),
    );
  }
  await syncFile(path);
}

async function createFile(
  { path, backing, sizeBytes, seal }: OverlayPlan,
  options: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  await rm(path, { force: true });
  const layout = [LAYER_OPTIONS, ...options].join(",");
  const below = ["-u", "-b", backing.path, "-F", qemuFormat(backing)];
  const result = await withImageKey(seal?.passphrase, async (key) => {
    const how = ["create", "-q", ...key.args, "-f", "qcow2", "-o", layout, ...below];
    const options = {
      timeoutMs: CREATE_TIMEOUT_MS,
      ...key.options,
      ...(signal === undefined ? {} : { signal }),
    };
    const args = [...how, "--", path, String(sizeBytes)];
    return await runMeasured(() => runTool("qemu-img", args, options));
  });
  assertToolSucceeded("qemu-img", result);
}

/**
 * Size of the disk that an image holds, out of its header; safe while a VM writes it. Errors:
 * ImageNotFound, ImageInvalid (after-change).
 */
export async function readVirtualSize(layer: OpenedLayer): Promise<number> {
  const { path, format, secretId } = layer;
  const { header, lengthBytes } = await readHeader(path);
  if (format === "raw") {
    return secretId === undefined ? lengthBytes : lengthBytes - payloadOffset(path, header);
  }
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

/**
 * Why an original that is said to be encrypted cannot have layers, out of its header; `undefined` where it
 * can, or is not there, which has an error of its own.
 */
export async function whyNotSealed(layer: OpenedLayer): Promise<string | undefined> {
  const { path, format } = layer;
  let header: Buffer;
  try {
    ({ header } = await readHeader(path));
  } catch (error) {
    if (isKluisError(error, "ImageNotFound")) return undefined;
    throw error;
  }
  if (format === "raw") {
    if (!isLuks(header)) return `"${path}" is no LUKS image`;
    const version = header.readUInt16BE(luksVersionOffset);
    return version === 1 ? undefined : `"${path}" is LUKS ${String(version)}, QEMU opens LUKS 1`;
  }
  if (!isSealedQcow2(header)) {
    return `"${path}" is no qcow2 image that is encrypted by LUKS`;
  }
  const isAlone = header.readUInt32BE(qcow2BackingLengthOffset) === 0;
  return isAlone ? undefined : `"${path}" is encrypted and lies on another image`;
}

function payloadOffset(path: string, header: Buffer): number {
  if (!isLuks(header)) throw invalid(path, "it is described as encrypted and is no LUKS image");
  return header.readUInt32BE(luksPayloadOffset) * SECTOR_BYTES;
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
export async function rebaseOverlay(
  above: DiskLayer,
  below: DiskLayer,
  passphrase: Uint8Array | undefined,
): Promise<void> {
  const backing = ["-b", below.path, "-F", qemuFormat(below)];
  const result = await withImageKey(passphrase, async (key) => {
    const args = ["rebase", "-q", "-u", ...key.args, ...backing, "--", toLayerNode(above)];
    return await runTool("qemu-img", args, { timeoutMs: REBASE_TIMEOUT_MS, ...key.options });
  });
  assertToolSucceeded("qemu-img", result);
  await syncFile(above.path);
}

/**
 * Whether a layer holds nothing of its own; one that another program writes may hold something. The
 * layers below are not looked at, so they may be in use. A file that is no image yet, left by a run that died, is empty.
 */
export async function isOverlayEmpty(
  layer: OpenedLayer,
  passphrase: Uint8Array | undefined,
): Promise<boolean> {
  const { header, lengthBytes } = await readHeader(layer.path);
  if (!isQcow2(header)) return lengthBytes < NEW_LAYER_BYTES_MAX;
  // Its making was cut off before its key slot was complete: nobody could open it yet.
  if (layer.secretId !== undefined && !isSealedQcow2(header)) {
    return lengthBytes < NEW_SEALED_BYTES_MAX;
  }
  const result = await withImageKey(passphrase, async (key) => {
    const args = ["map", "--output=json", ...key.args, "--", toLayerNode(layer)];
    return await runTool("qemu-img", args, { timeoutMs: MAP_TIMEOUT_MS, ...key.options });
  });
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
      const header = Buffer.alloc(HEADER_BYTES);
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

function isSealedQcow2(header: Buffer): boolean {
  return isQcow2(header) && header.readUInt32BE(qcow2CryptOffset) === qcow2CryptLuks;
}

function isLuks(header: Buffer): boolean {
  return header.subarray(0, luksMagic.byteLength).equals(luksMagic);
}

function isQcow2(header: Buffer): boolean {
  return header.subarray(0, qcow2Magic.byteLength).equals(qcow2Magic);
}

function invalid(path: string, reason: string): KluisError {
  return new KluisError("ImageInvalid", `Cannot use the image "${path}": ${reason}`, {
    details: { path },
  });
}
