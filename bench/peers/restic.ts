/** restic: content-defined chunks, zstd, AES-CTR with Poly1305, its own cache in the run's folder. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";

import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";

import { type Cost, measureProcess } from "../measured-process.ts";
import { type Peer, type PeerRun, unusedPercent, type Upkeep } from "./peer.ts";

const toolTimeoutMs = 60_000;

/** restic with its defaults. */
export const restic: Peer = {
  name: "restic",
  readsCurrentPath: true,
  readVersion: async (signal) => {
    const result = await runTool("restic", ["version"], { timeoutMs: toolTimeoutMs, signal });
    return /^restic \S+/.exec(result.stdout)?.[0] ?? "restic";
  },
  prepare: async (run) => {
    await writeFile(join(run.folder, "password"), "correct horse battery staple\n");
    const args = [...placeArgs(run), "init", "--quiet"];
    const result = await runTool("restic", args, {
      timeoutMs: toolTimeoutMs,
      signal: run.signal,
    });
    assertToolSucceeded("restic", result);
  },
  backUp: (run) => backUp(run),
  increment: (run) => backUp(run),
  restore: (run, targetFolder) =>
    measure(run, ["restore", "latest", "--target", targetFolder], targetFolder),
  storeOf: (run) => join(run.folder, "store"),
};

/** `check --read-data` reads and hashes every blob. */
export const resticUpkeep: Upkeep = {
  peer: restic,
  backUpCurrent: async (run) => void (await backUp(run)),
  verify: (run) => measure(run, ["check", "--read-data"], run.folder),
  collect: async (run, keep) => {
    const forget = ["forget", "--keep-last", String(keep)];
    const prune = ["--prune", "--max-unused", `${unusedPercent}%`];
    return measure(run, [...forget, ...prune], run.folder);
  },
};

function backUp(run: PeerRun): Promise<Cost> {
  return measure(run, ["backup", "--compression", "auto", run.currentPath], run.folder);
}

async function measure(run: PeerRun, args: readonly string[], syncFolder: string): Promise<Cost> {
  const { cost } = await measureProcess("restic", [...placeArgs(run), "--quiet", ...args], {
    scratch: run.scratch,
    syncFolder,
    signal: run.signal,
  });
  return cost;
}

function placeArgs(run: PeerRun): readonly string[] {
  const password = ["--password-file", join(run.folder, "password")];
  return ["--repo", restic.storeOf(run), "--cache-dir", join(run.folder, "cache"), ...password];
}
