/** How a frozen layer looked when it was frozen, and whether it still looks so. */
import { createHash } from "node:crypto";
import { open, stat, type FileHandle } from "node:fs/promises";

import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import {
  isBlockDevice,
  readDeviceBytes,
  readDeviceWatch,
  type DeviceWatch,
} from "#drivers/disk/block-device.ts";
import { syncFile } from "./durable-file.ts";

/** Pages whose content goes into the fingerprint, spread evenly over the file. */
const SAMPLES = 64;
const SAMPLE_BYTES = 4096;
/** Headers and tables lie at the start of an image. */
const HEAD_BYTES = 64 * 1024;

/** See above; plain JSON. */
export type LayerFingerprint = FileFingerprint | DeviceFingerprint;

/** Of a file. Times in nanoseconds, as decimal texts. */
interface FileFingerprint {
  readonly device: string;
  readonly inode: string;
  readonly sizeBytes: number;
  readonly mtimeNs: string;
  readonly ctimeNs: string;
  readonly sampleHash: string;
}

/** Of a block device, whose node has times that say nothing. */
interface DeviceFingerprint {
  readonly kind: "device";
  readonly sizeBytes: number;
  readonly sampleHash: string;
  /** Absent where nobody counts writes. */
  readonly watch?: DeviceWatch;
}

/**
 * Kernels stamp files with the time of the last tick, 1 to 10 ms: a write in the tick of an earlier
 * one does not show. A fingerprint is taken when the last write is older than that.
 */
const TICK_MS = 20;

/** Fingerprint of the file or device as it is; nobody writes it any more. */
export async function readLayerFingerprint(path: string, clock: Clock): Promise<LayerFingerprint> {
  if (await isBlockDevice(path)) return await readDeviceFingerprint(path);
  const { mtimeNs } = await readIdentity(path);
  const ageMs = clock.nowMs() - Number(BigInt(mtimeNs) / 1_000_000n);
  if (ageMs < TICK_MS) await clock.sleep(TICK_MS);
  return { ...(await readIdentity(path)), sampleHash: await hashSamples(path) };
}

/**
 * Throws SnapshotBaseChanged (after-change) where the file was written since. A file that was moved,
 * copied with its times or given other rights is the same: size, time of the last write and sampled
 * content are equal then.
 *
 * A device that the kernel has not watched all the time (the host was started anew, the device taken
 * away and brought back) is only compared by size and sampled content.
 *
 * @returns False for such a device: it may have been written where no sample lies.
 */
export async function assertLayerUnchanged(
  path: string,
  frozen: LayerFingerprint,
): Promise<boolean> {
  if ("kind" in frozen) return await assertDeviceUnchanged(path, frozen);
  await assertFileUnchanged(path, frozen);
  return true;
}

async function assertFileUnchanged(path: string, frozen: FileFingerprint): Promise<void> {
  const now = await readIdentity(path);
  if (now.sizeBytes !== frozen.sizeBytes) throw changed(path, "its size has changed");
  if (now.mtimeNs !== frozen.mtimeNs) throw changed(path, "it was written");
  const isUntouched =
    now.device === frozen.device && now.inode === frozen.inode && now.ctimeNs === frozen.ctimeNs;
  if (isUntouched) return;
  if ((await hashSamples(path)) !== frozen.sampleHash) throw changed(path, "its content differs");
}

async function readDeviceFingerprint(path: string): Promise<DeviceFingerprint> {
  await syncFile(path);
  // Counts are believed of a device that has been read.
  await hashSamples(path);
  const watch = await readDeviceWatch(path);
  // After the counts, which show what is written meanwhile.
  const sampleHash = await hashSamples(path);
  const sizeBytes = await readDeviceBytes(path);
  return { kind: "device", sizeBytes, sampleHash, ...(watch === undefined ? {} : { watch }) };
}

/** As {@link assertLayerUnchanged}. */
async function assertDeviceUnchanged(path: string, frozen: DeviceFingerprint): Promise<boolean> {
  try {
    if (!(await isBlockDevice(path))) throw changed(path, "it is no block device any more");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") throw changed(path, "it is gone");
    throw error;
  }
  const sizeBytes = await readDeviceBytes(path);
  if (sizeBytes !== frozen.sizeBytes) {
    const was = `it has ${String(sizeBytes)} bytes and had ${String(frozen.sizeBytes)}`;
    throw changed(path, was, "give it that size again, detach the VM, and resize it then");
  }
  // What the page cache holds back of earlier writes is counted now and not later.
  await syncFile(path);
  const { watch } = frozen;
  const now = await readDeviceWatch(path);
  if (watch !== undefined && now !== undefined && isSameWatch(watch, now)) {
    const isWritten =
      watch.sectorsWritten !== now.sectorsWritten ||
      watch.sectorsDiscarded !== now.sectorsDiscarded;
    if (isWritten) throw changed(path, "it was written");
    return true;
  }
  if ((await hashSamples(path)) !== frozen.sampleHash) throw changed(path, "its content differs");
  return false;
}

function isSameWatch(a: DeviceWatch, b: DeviceWatch): boolean {
  return a.bootId === b.bootId && a.number === b.number && a.sequence === b.sequence;
}

type Identity = Omit<FileFingerprint, "sampleHash">;

async function readIdentity(path: string): Promise<Identity> {
  try {
    const status = await stat(path, { bigint: true });
    return {
      device: String(status.dev),
      inode: String(status.ino),
      sizeBytes: Number(status.size),
      mtimeNs: String(status.mtimeNs),
      ctimeNs: String(status.ctimeNs),
    };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") throw changed(path, "it is gone");
    throw error;
  }
}

async function hashSamples(path: string): Promise<string> {
  const hash = createHash("sha256");
  const file = await open(path, "r");
  try {
    const status = await file.stat();
    const size = status.isBlockDevice() ? await readDeviceBytes(path) : status.size;
    await hashRange(file, hash, { offsetBytes: 0, lengthBytes: HEAD_BYTES });
    const strideBytes = Math.max(SAMPLE_BYTES, Math.floor(size / SAMPLES));
    for (let sample = 1; sample <= SAMPLES; sample += 1) {
      const offsetBytes = Math.min(sample * strideBytes, Math.max(0, size - SAMPLE_BYTES));
      await hashRange(file, hash, { offsetBytes, lengthBytes: SAMPLE_BYTES });
    }
  } finally {
    await file.close();
  }
  return hash.digest("hex");
}

async function hashRange(
  file: FileHandle,
  hash: ReturnType<typeof createHash>,
  range: { readonly offsetBytes: number; readonly lengthBytes: number },
): Promise<void> {
  const buffer = Buffer.alloc(range.lengthBytes);
  const { bytesRead } = await file.read(buffer, 0, range.lengthBytes, range.offsetBytes);
  hash.update(buffer.subarray(0, bytesRead));
}

function changed(path: string, reason: string, action?: string): KluisError {
  const hint = action === undefined ? "" : `; ${action}`;
  return new KluisError(
    "SnapshotBaseChanged",
    `Cannot trust the frozen layer "${path}": ${reason} behind the layer above it${hint}`,
    { details: { path } },
  );
}
