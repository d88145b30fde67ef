/** How a frozen layer looked when it was frozen, and whether it still looks so. */
import { createHash } from "node:crypto";
import { open, stat, type FileHandle } from "node:fs/promises";

import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";

/** Pages whose content goes into the fingerprint, spread evenly over the file. */
const SAMPLES = 64;
const SAMPLE_BYTES = 4096;
/** Headers and tables lie at the start of an image. */
const HEAD_BYTES = 64 * 1024;

/** See above; plain JSON. Times in nanoseconds, as decimal texts. */
export interface LayerFingerprint {
  readonly device: string;
  readonly inode: string;
  readonly sizeBytes: number;
  readonly mtimeNs: string;
  readonly ctimeNs: string;
  readonly sampleHash: string;
}

/**
 * Kernels stamp files with the time of the last tick, 1 to 10 ms: a write in the tick of an earlier
 * one does not show. A fingerprint is taken when the last write is older than that.
 */
const TICK_MS = 20;

/** Fingerprint of the file as it is; nobody writes it any more. */
export async function readLayerFingerprint(path: string, clock: Clock): Promise<LayerFingerprint> {
  const { mtimeNs } = await readIdentity(path);
  const ageMs = clock.nowMs() - Number(BigInt(mtimeNs) / 1_000_000n);
  if (ageMs < TICK_MS) await clock.sleep(TICK_MS);
  return { ...(await readIdentity(path)), sampleHash: await hashSamples(path) };
}

/**
 * Throws SnapshotBaseChanged (after-change) where the file was written since. A file that was moved,
 * copied with its times or given other rights is the same: size, time of the last write and sampled
 * content are equal then.
 */
export async function assertLayerUnchanged(path: string, frozen: LayerFingerprint): Promise<void> {
  const now = await readIdentity(path);
  if (now.sizeBytes !== frozen.sizeBytes) throw changed(path, "its size has changed");
  if (now.mtimeNs !== frozen.mtimeNs) throw changed(path, "it was written");
  const isUntouched =
    now.device === frozen.device && now.inode === frozen.inode && now.ctimeNs === frozen.ctimeNs;
  if (isUntouched) return;
  if ((await hashSamples(path)) !== frozen.sampleHash) throw changed(path, "its content differs");
}

type Identity = Omit<LayerFingerprint, "sampleHash">;

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
    const { size } = await file.stat();
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

function changed(path: string, reason: string): KluisError {
  return new KluisError(
    "SnapshotBaseChanged",
    `Cannot trust the frozen layer "${path}": ${reason} behind the layer above it`,
    { details: { path } },
  );
}
