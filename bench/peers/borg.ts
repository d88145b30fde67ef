/** borg: content-defined chunks, zstd level 3, encryption with the key in the repository. */
import { join } from "node:path";

import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";

import { type Cost, measureProcess } from "../measured-process.ts";
import type { Peer, PeerRun } from "./peer.ts";

const toolTimeoutMs = 60_000;
const fullName = "full";
const incrementName = "increment";

/** borg with `--compression zstd,3` and `--encryption repokey-blake2`, sparse when it restores. */
export const borg: Peer = {
  name: "borg",
  readsCurrentPath: true,
  readVersion: async (signal) => {
    const result = await runTool("borg", ["--version"], { timeoutMs: toolTimeoutMs, signal });
    return result.stdout.trim();
  },
  prepare: async (run) => {
    const result = await runTool(
      "borg",
      ["init", "--encryption", "repokey-blake2", borg.storeOf(run)],
      { timeoutMs: toolTimeoutMs, signal: run.signal, env: environmentOf(run) },
    );
    assertToolSucceeded("borg", result);
  },
  backUp: (run) => backUpAs(run, fullName),
  increment: (run) => backUpAs(run, incrementName),
  restore: async (run, targetFolder) => {
    const { signal } = run;
    const listed = await runTool("borg", ["list", "--short", borg.storeOf(run)], {
      timeoutMs: toolTimeoutMs,
      signal,
      env: environmentOf(run),
    });
    assertToolSucceeded("borg", listed);
    const newest = listed.stdout.includes(incrementName) ? incrementName : fullName;
    const archive = `${borg.storeOf(run)}::${newest}`;
    return await measure(run, ["extract", "--sparse", archive], targetFolder);
  },
  storeOf: (run) => join(run.folder, "store"),
};

function backUpAs(run: PeerRun, name: string): Promise<Cost> {
  const archive = `${borg.storeOf(run)}::${name}`;
  return measure(run, ["create", "--compression", "zstd,3", archive, run.currentPath], run.folder);
}

/** Runs in `folder`, which is where `extract` writes. */
async function measure(run: PeerRun, args: readonly string[], folder: string): Promise<Cost> {
  const { cost } = await measureProcess("borg", args, {
    scratch: run.scratch,
    syncFolder: folder,
    cwd: folder,
    env: environmentOf(run),
    signal: run.signal,
  });
  return cost;
}

function environmentOf(run: PeerRun): Readonly<Record<string, string>> {
  return {
    BORG_BASE_DIR: join(run.folder, "base"),
    BORG_PASSPHRASE: "correct horse battery staple",
  };
}
