/** qemu-img convert: compresses by 64 KiB clusters; no encryption, no dedup, no verification. */
import { join } from "node:path";

import { runTool } from "#drivers/process/run-tool.ts";

import { type Cost, measureProcess } from "../measured-process.ts";
import type { Peer, PeerRun } from "./peer.ts";

const toolTimeoutMs = 60_000;

/** `qemu-img convert -c -O qcow2 -o compression_type=zstd`, and back to raw. */
export const qemuImg: Peer = {
  name: "qemu-img",
  readsCurrentPath: true,
  readVersion: async (signal) => {
    const result = await runTool("qemu-img", ["--version"], { timeoutMs: toolTimeoutMs, signal });
    return /^qemu-img version [\d.]+/.exec(result.stdout)?.[0] ?? "qemu-img";
  },
  prepare: async () => {
    // It needs nothing.
  },
  backUp: (run) => {
    return convert(
      run,
      [
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        "compression_type=zstd",
        run.currentPath,
        qemuImg.storeOf(run),
      ],
      run.folder,
    );
  },
  restore: (run, targetFolder) => {
    const target = join(targetFolder, "disk.raw");
    return convert(run, ["-f", "qcow2", "-O", "raw", qemuImg.storeOf(run), target], targetFolder);
  },
  storeOf: (run) => join(run.folder, "disk.qcow2"),
};

async function convert(run: PeerRun, args: readonly string[], syncFolder: string): Promise<Cost> {
  const { cost } = await measureProcess("qemu-img", ["convert", ...args], {
    scratch: run.scratch,
    syncFolder,
    signal: run.signal,
  });
  return cost;
}
