/** What of a file shows that its content changed. */
import { open, type FileHandle } from "node:fs/promises";

import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { readDeviceSectors } from "./block-device.ts";

/** Identity and times of a file; equal while nobody writes, replaces or truncates it. */
export interface FileState {
  readonly device: bigint;
  readonly inode: bigint;
  readonly sizeBytes: bigint;
  readonly modifiedNs: bigint;
  readonly changedNs: bigint;
  readonly isDevice: boolean;
  /** Sectors that a block device has written and discarded; absent for files. */
  readonly writes?: string;
}

/**
 * Kernels stamp files with the time of the last tick, 1 to 10 ms: a write in the tick of an earlier
 * one does not show. A reference must be older than that when it is taken.
 */
const TICK_MS = 20;

/** The state of the file that `path` names now. */
export async function readFileState(path: string): Promise<FileState> {
  // Opened anew, because network file systems look at the server only then (close-to-open).
  const handle = await open(path, "r");
  try {
    return await readHandleState(handle);
  } finally {
    await handle.close();
  }
}

/**
 * The state of a file to compare with later: taken when no write of the same tick can hide.
 *
 * Errors: ImageChangedDuringRead (after-change) where the file is being written right now.
 */
export async function readReferenceState(
  path: string,
  clock: Clock = systemClock,
): Promise<FileState> {
  const first = await readFileState(path);
  const newestMs = Number(
    (first.modifiedNs > first.changedNs ? first.modifiedNs : first.changedNs) / 1_000_000n,
  );
  const ageMs = clock.nowMs() - newestMs;
  if (ageMs > TICK_MS) return first;
  await clock.sleep(TICK_MS);
  const second = await readFileState(path);
  if (!isSameState(first, second)) throw changed(path);
  return second;
}

/** Throws ImageChangedDuringRead unless the file at `path` still has the state `before`. */
export async function assertSameState(path: string, before: FileState): Promise<void> {
  let now: FileState;
  try {
    now = await readFileState(path);
  } catch (error) {
    throw new KluisError(
      "ImageChangedDuringRead",
      `Cannot trust what was read of "${path}": it cannot be opened any more`,
      { cause: error },
    );
  }
  if (!isSameState(before, now)) throw changed(path);
}

/** The same of an open file: it is still the one that `path` names, and as it was. */
export async function assertSameFile(
  handle: FileHandle,
  path: string,
  before: FileState,
): Promise<void> {
  if (!isSameState(before, await readHandleState(handle))) throw changed(path);
}

function isSameState(a: FileState, b: FileState): boolean {
  return (
    a.device === b.device &&
    a.inode === b.inode &&
    a.sizeBytes === b.sizeBytes &&
    a.modifiedNs === b.modifiedNs &&
    // Of a device it is that of its node, which libvirt gives to QEMU's user and takes back.
    (a.isDevice || a.changedNs === b.changedNs) &&
    a.writes === b.writes
  );
}

async function readHandleState(handle: FileHandle): Promise<FileState> {
  const stats = await handle.stat({ bigint: true });
  const state = {
    device: stats.dev,
    inode: stats.ino,
    sizeBytes: stats.size,
    modifiedNs: stats.mtimeNs,
    changedNs: stats.ctimeNs,
    isDevice: stats.isBlockDevice(),
  };
  if (!state.isDevice) return state;
  // What the page cache holds back of earlier writes is counted now and not later.
  await handle.sync();
  const sectors = await readDeviceSectors(stats.rdev);
  if (sectors === undefined) return state;
  return { ...state, writes: `${sectors.written} ${sectors.discarded}` };
}

function changed(path: string): KluisError {
  return new KluisError(
    "ImageChangedDuringRead",
    `Cannot trust what was read of "${path}": it was written meanwhile`,
  );
}
