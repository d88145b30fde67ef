/**
 * `npm run bench -- peers`: Kluis, restic, borg and qemu-img back up and restore the same disks, each
 * step as a process of its own, in turns. docs/benchmarks.md says what is compared and how.
 *
 * Options: `--scale N` (1 by default; less for a try), `--rounds N` (3), `--peers A,B`, `--workloads P,D`.
 */
import { link, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { present } from "#base/assert.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { pageBytes } from "#formats/geometry.ts";

import { createStamp, type Stamped, writeFigures } from "./figures.ts";
import { benchFolder, withRunFolder } from "./folders.ts";
import { type Cost, syncFileSystem } from "./measured-process.ts";
import { borg } from "./peers/borg.ts";
import {
  type DiskFigures,
  type PeerFigures,
  type PeerRuns,
  peersName,
  summarize,
} from "./peers/figures.ts";
import { kluis } from "./peers/kluis.ts";
import type { Peer, PeerRun, PeerSource } from "./peers/peer.ts";
import { qemuImg } from "./peers/qemu-img.ts";
import { describePeers } from "./peers/report.ts";
import { restic } from "./peers/restic.ts";
import { assertRestored } from "./peers/restored.ts";
import { storedBytesOf } from "./stored-bytes.ts";
import { openWorkloadD } from "./workloads/workload-d.ts";
import { openWorkloadP } from "./workloads/workload-p.ts";

const allPeers: readonly Peer[] = [kluis, restic, borg, qemuImg];
const workloadNames = ["P", "D"] as const;
type WorkloadName = (typeof workloadNames)[number];
const compareTimeoutMs = 10 * 60_000;

/** What to measure. */
export interface PeersOptions {
  readonly scale: number;
  readonly rounds: number;
  readonly peers: readonly string[];
  readonly workloads: readonly string[];
}

/** All of it, as the bars want it. */
export const wholePeersOptions: PeersOptions = {
  scale: 1,
  rounds: 3,
  peers: allPeers.map(({ name }) => name),
  workloads: workloadNames,
};

interface Disk {
  readonly name: WorkloadName;
  readonly source: PeerSource;
  readonly dataBytes: number;
  readonly changedBytes: number;
  readonly runs: Map<string, PeerRuns[]>;
}

/** Runs the comparison and keeps its figures. */
export function measurePeers(
  options: PeersOptions,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<Stamped<PeerFigures>> {
  return withRunFolder("peers", (folder) => measureIn(folder, options, context));
}

async function measureIn(
  folder: string,
  options: PeersOptions,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<Stamped<PeerFigures>> {
  const { signal, log } = context;
  const stamp = await createStamp(signal);
  const peers = allPeers.filter(({ name }) => options.peers.includes(name));
  const versions: Record<string, string> = {};
  for (const peer of peers) versions[peer.name] = await peer.readVersion(signal);
  const disks = await openDisks(options, signal);
  await warmUp(folder, peers, context);
  for (let round = 0; round < options.rounds; round++) {
    for (const disk of disks) {
      // Each round starts with another one, so that none always comes after the same.
      const order = peers.map((_, at) => present(peers[(at + round) % peers.length], "a peer"));
      for (const peer of order) {
        const runs = await measureOne(peer, disk.source, { folder, signal, verify: round === 0 });
        log(describeRun(`round ${round + 1}, ${disk.name}, ${peer.name}`, runs));
        disk.runs.set(peer.name, [...(disk.runs.get(peer.name) ?? []), runs]);
      }
    }
  }
  const figures = { ...options, versions, disks: disks.map(toFigures) };
  const stamped = { stamp, figures };
  const path = await writeFigures(peersName, stamped, isWhole(options) ? "whole" : "try");
  log(`figures: ${path}`);
  return stamped;
}

async function openDisks(options: PeersOptions, signal: AbortSignal): Promise<readonly Disk[]> {
  const { scale, workloads } = options;
  const disks: Disk[] = [];
  if (workloads.includes("P")) {
    const { before, after, overlay, ...p } = await openWorkloadP({ scale }, signal);
    disks.push({
      name: "P",
      source: { sizeBytes: p.sizeBytes, before, changed: { after, overlay } },
      dataBytes: p.dataBytes,
      changedBytes: p.changedPages * pageBytes,
      runs: new Map(),
    });
  }
  if (workloads.includes("D")) {
    const { image, sizeBytes, allocatedBytes } = await openWorkloadD({ scale }, signal);
    const source = { sizeBytes, before: image };
    disks.push({ name: "D", source, dataBytes: allocatedBytes, changedBytes: 0, runs: new Map() });
  }
  return disks;
}

/** Every program once, on a small disk: its file, its libraries and its compiled code are cached then. */
async function warmUp(
  folder: string,
  peers: readonly Peer[],
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<void> {
  const { signal, log } = context;
  const { before, after, overlay, sizeBytes } = await openWorkloadP({ scale: 1 / 64 }, signal);
  const source = { sizeBytes, before, changed: { after, overlay } };
  for (const peer of peers) await measureOne(peer, source, { folder, signal, verify: true });
  log("every program ran once on a small disk and restored it byte for byte");
}

/** One program from an empty store to a restore of its newest backup. */
async function measureOne(
  peer: Peer,
  source: PeerSource,
  options: { readonly folder: string; readonly signal: AbortSignal; readonly verify: boolean },
): Promise<PeerRuns> {
  const { signal, verify } = options;
  const place = join(options.folder, "one");
  const run: PeerRun = {
    folder: join(place, "peer"),
    scratch: join(place, "scratch"),
    source,
    currentPath: join(place, "disk.raw"),
    signal,
  };
  await mkdir(run.folder, { recursive: true });
  await mkdir(run.scratch);
  try {
    await peer.prepare(run);
    await show(peer, run, source.before);
    const full = await peer.backUp(run);
    const storedBytes = await storedBytesOf(peer.storeOf(run));
    const restore = await restoreNewest(peer, run, verify ? source.before : undefined);
    const runs = { full, restore, storedBytes };
    if (source.changed === undefined || peer.increment === undefined) return runs;
    await show(peer, run, source.changed.after);
    const increment = await peer.increment(run);
    const grownBytes = (await storedBytesOf(peer.storeOf(run))) - storedBytes;
    if (verify) await restoreNewest(peer, run, source.changed.after);
    return { ...runs, increment, grownBytes };
  } finally {
    await rm(place, { recursive: true, force: true });
    await syncFileSystem(benchFolder, signal);
  }
}

/**
 * Shows an image at the path that programs back up; a link, because copies would not be cached. Nothing
 * is left to write then, and the source is cached: who comes late in a round would find less of it.
 */
async function show(peer: Peer, run: PeerRun, image: string): Promise<void> {
  if (peer.readsCurrentPath) {
    await rm(run.currentPath, { force: true });
    await link(image, run.currentPath);
  }
  await syncFileSystem(run.scratch, run.signal);
  await readThrough(run.source, run.signal);
}

/** Restores, and compares with `expected` where it is named. */
async function restoreNewest(
  peer: Peer,
  run: PeerRun,
  expected: string | undefined,
): Promise<Cost> {
  const { signal } = run;
  const target = join(run.scratch, "target");
  await mkdir(target);
  await syncFileSystem(run.scratch, signal);
  const cost = await peer.restore(run, target);
  if (expected !== undefined) await assertRestored(peer.name, { target, expected }, signal);
  await rm(target, { recursive: true });
  await syncFileSystem(run.scratch, signal);
  return cost;
}

/** Reads all that will be read, holes too, so that no program reads from the disk. */
async function readThrough(source: PeerSource, signal: AbortSignal): Promise<void> {
  const { before, changed } = source;
  const paths = changed === undefined ? [before] : [before, changed.after, changed.overlay];
  for (const path of paths) {
    const options = { timeoutMs: compareTimeoutMs, signal };
    assertToolSucceeded(
      "dd",
      await runTool("dd", [`if=${path}`, "of=/dev/null", "bs=4M", "status=none"], options),
    );
  }
}

function toFigures(disk: Disk): DiskFigures {
  const { name, source, dataBytes, changedBytes } = disk;
  const peers: DiskFigures["peers"] = Object.fromEntries(
    [...disk.runs].map(([peer, runs]) => [peer, summarize(runs)]),
  );
  return { name, sizeBytes: source.sizeBytes, dataBytes, changedBytes, peers };
}

function describeRun(what: string, runs: PeerRuns): string {
  const seconds = (cost: Cost | undefined): string =>
    cost === undefined ? "–" : `${(cost.wallMs / 1000).toFixed(2)} s`;
  const { full, restore, increment } = runs;
  return `${what}: full ${seconds(full)}, restore ${seconds(restore)}, increment ${seconds(increment)}`;
}

function isWhole(options: PeersOptions): boolean {
  const { scale, rounds, peers, workloads } = options;
  const isAll = peers.length === allPeers.length && workloads.length === workloadNames.length;
  return scale === 1 && rounds >= wholePeersOptions.rounds && isAll;
}

/** The command; see the file's head. */
export async function runPeersBench(words: readonly string[], signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({
    args: [...words],
    options: {
      scale: { type: "string", default: "1" },
      rounds: { type: "string", default: "3" },
      peers: { type: "string", default: wholePeersOptions.peers.join(",") },
      workloads: { type: "string", default: workloadNames.join(",") },
    },
  });
  const options = {
    scale: Number(values.scale),
    rounds: Number(values.rounds),
    peers: values.peers.split(","),
    workloads: values.workloads.split(","),
  };
  const measured = await measurePeers(options, { signal, log: (line) => console.log(line) });
  console.log(describePeers(measured));
}
