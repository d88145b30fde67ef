/** Kluis, by its own command line. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import type { BackupOutput } from "#contract/cli-output.ts";

import { benchFolder, repositoryFolder } from "../folders.ts";
import { type Cost, measureProcess } from "../measured-process.ts";
import { type Peer, type PeerRun, unusedPercent, type Upkeep } from "./peer.ts";

const program = join(repositoryFolder, "bin/kluis.mjs");
const item = "bench";
const toolTimeoutMs = 60_000;

/** Vault with a key-file slot; increments come from a snapshot; verification before commit is on. */
export const kluis: Peer = {
  name: "kluis",
  readsCurrentPath: false,
  readVersion: async (signal) => {
    const result = await runKluis(["--version"], { folder: benchFolder, signal });
    return `kluis ${result.trim()} on Node ${process.versions.node}`;
  },
  prepare: async (run) => {
    await mkdir(join(run.folder, "keys"));
    const keys = [
      "--key-file",
      keyFile(run),
      "--recovery-key-file",
      join(run.folder, "keys/rescue"),
    ];
    await runKluis(["vault", "create", "--store", kluis.storeOf(run), ...keys], run);
  },
  backUp: (run) => backUpAs(run, run.source.before, "full"),
  increment: (run) => backUpAs(run, run.source.changed?.overlay ?? "", "snapshot-difference"),
  restore: async (run, targetFolder) => {
    const target = join(targetFolder, "disk.raw");
    return (await measure(run, ["image", "restore", item, target], targetFolder)).cost;
  },
  storeOf: (run) => join(run.folder, "store"),
};

/** Increments come from a comparison by checksum, as nothing tells what changed in a raw image. */
export const kluisUpkeep: Upkeep = {
  peer: kluis,
  backUpCurrent: async (run) => {
    await measure(run, ["image", "backup", run.currentPath, "--item", item], run.folder);
  },
  verify: async (run) => (await measure(run, ["image", "verify"], run.folder)).cost,
  collect: async (run, keep) => {
    const prune = ["vault", "prune", "--keep-last", String(keep)];
    const collect = ["--collect", "--max-unused", String(unusedPercent)];
    return (await measure(run, [...prune, ...collect], run.folder)).cost;
  },
};

async function backUpAs(run: PeerRun, image: string, tracking: string): Promise<Cost> {
  const args = ["image", "backup", image, "--item", item, "--output", "json"];
  const { cost, stdout } = await measure(run, args, run.folder);
  const output = JSON.parse(stdout) as BackupOutput;
  const method = output.point.disks[0]?.tracking;
  if (method === tracking) return cost;
  throw new Error(`Cannot measure kluis: it tracked changes by "${method}", not "${tracking}"`);
}

async function measure(
  run: PeerRun,
  args: readonly string[],
  syncFolder: string,
): Promise<{ readonly cost: Cost; readonly stdout: string }> {
  const place = ["--store", kluis.storeOf(run), "--key-file", keyFile(run)];
  const cache = ["--cache", join(run.folder, "cache")];
  return await measureProcess(process.execPath, [program, ...args, ...place, ...cache], {
    scratch: run.scratch,
    syncFolder,
    env: environmentOf(run.folder),
    signal: run.signal,
  });
}

/**
 * Node's cache of compiled code, which an installed program has from its second start on; and what the host
 * remembers of the vault, which is put back with it.
 */
function environmentOf(folder: string): Readonly<Record<string, string>> {
  return { XDG_CACHE_HOME: join(benchFolder, "node-cache"), KLUIS_STATE: join(folder, "state") };
}

async function runKluis(
  args: readonly string[],
  { folder, signal }: { readonly folder: string; readonly signal: AbortSignal },
): Promise<string> {
  const options = { timeoutMs: toolTimeoutMs, signal, env: environmentOf(folder) };
  const result = await runTool(process.execPath, [program, ...args], options);
  assertToolSucceeded("kluis", result);
  return result.stdout;
}

function keyFile(run: PeerRun): string {
  return join(run.folder, "keys/key");
}
