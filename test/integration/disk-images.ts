/** Makes real images for the tests of disk drivers, with QEMU's own tools. */
import { open, readFile, rm } from "node:fs/promises";

import { isImageWritten } from "#drivers/disk/image-lock.ts";
import { spawnDaemon, type Daemon } from "#drivers/process/daemon.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import type { MemoryDisk } from "#testing/memory-disk.ts";

const TOOL_TIMEOUT_MS = 120_000;
const PIECE_BYTES = 1024 * 1024;

/** Runs a tool that must succeed; returns what it printed. */
export async function mustRun(command: string, args: readonly string[]): Promise<string> {
  const result = await runTool(command, args, { timeoutMs: TOOL_TIMEOUT_MS });
  assertToolSucceeded(command, result);
  return result.stdout;
}

/** Writes `disk` to a sparse raw file. */
export async function writeRawImage(path: string, disk: MemoryDisk): Promise<void> {
  const handle = await open(path, "w");
  try {
    await handle.truncate(disk.sizeBytes);
    for (const { offsetBytes, lengthBytes, kind } of disk.extents()) {
      if (kind === "zero") continue;
      for (let at = 0; at < lengthBytes; at += PIECE_BYTES) {
        const bytes = new Uint8Array(Math.min(PIECE_BYTES, lengthBytes - at));
        disk.read(offsetBytes + at, bytes);
        await handle.write(bytes, 0, bytes.byteLength, offsetBytes + at);
      }
    }
  } finally {
    await handle.close();
  }
}

/** Writes `disk` to an image of another format, by way of qemu-img. */
export async function writeImage(path: string, format: string, disk: MemoryDisk): Promise<void> {
  if (format === "raw") {
    await writeRawImage(path, disk);
    return;
  }
  await writeRawImage(`${path}.raw`, disk);
  await mustRun("qemu-img", ["convert", "-f", "raw", "-O", format, `${path}.raw`, path]);
  await rm(`${path}.raw`);
}

/** The content of an image, as qemu-img reads it. */
export async function readByQemuImg(path: string, format: string): Promise<Uint8Array> {
  await mustRun("qemu-img", ["convert", "-f", format, "-O", "raw", path, `${path}.copy`]);
  const bytes = await readFile(`${path}.copy`);
  await rm(`${path}.copy`);
  return bytes;
}

/** Runs commands of qemu-io on an image, for example `write -P 1 0 4k`. */
export async function runQemuIo(
  path: string,
  format: string,
  commands: readonly string[],
): Promise<void> {
  const args = commands.flatMap((command) => ["-c", command]);
  const output = await mustRun("qemu-io", ["-f", format, ...args, path]);
  if (/failed|error|invalid/i.test(output)) throw new Error(`qemu-io: ${output}`);
}

/**
 * Opens an image for writing as a VM does, with QEMU's locks, runs commands of qemu-io and keeps it
 * open until it is disposed.
 */
export async function startImageWriter(
  path: string,
  format: string,
  commands: readonly string[] = [],
): Promise<Daemon> {
  const args = [...commands, "sleep 600000"].flatMap((command) => ["-c", command]);
  return spawnDaemon("qemu-io", ["-f", format, ...args, path], {
    readyTimeoutMs: TOOL_TIMEOUT_MS,
    stopGraceMs: 1,
    isReady: async () => {
      const handle = await open(path, "r");
      try {
        return await isImageWritten(handle);
      } finally {
        await handle.close();
      }
    },
  });
}
