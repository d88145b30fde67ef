/**
 * `npm run bench -- vault`: a vault of 60 recovery points of one disk, beside a repository of restic of
 * the same 60 backups: restore of the newest, full verification, and the deletion of the 30 oldest
 * with the collection of their space, each as processes of the programs. docs/benchmarks.md says how.
 *
 * Options: `--scale N` of workload P (0.25, which counts), `--points N` (60), `--rounds N` (3).
 */
import { constants } from "node:fs";
import { copyFile, cp, mkdir, open, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { present } from "#base/assert.ts";
import { pageBytes } from "#formats/geometry.ts";
import { createPrng } from "#testing/seed.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";

import { createStamp, type Stamped, writeFigures } from "./figures.ts";
import { benchFolder, withRunFolder } from "./folders.ts";
import { type Cost, syncFileSystem } from "./measured-process.ts";
import { type StepFigures, summarizeStep } from "./peers/figures.ts";
import { kluis, kluisUpkeep } from "./peers/kluis.ts";
import type { PeerRun, Upkeep } from "./peers/peer.ts";
import { restic, resticUpkeep } from "./peers/restic.ts";
import { assertRestored } from "./peers/restored.ts";
import { storedBytesOf } from "./stored-bytes.ts";
import { drawPages, openWorkloadP, type WorkloadP } from "./workloads/workload-p.ts";

/** The name of the file of figures. */
export const vaultName = "vault";

const seed = 6000;
/** Pages of a run, where changes lie together: 1 MiB. */
const runPages = 256;

/** How a guest writes between two points: pages anywhere, or as many in runs of 1 MiB. */
export const changeKinds = ["pages", "runs"] as const;
type ChangeKind = (typeof changeKinds)[number];

/** What to measure. */
export interface VaultOptions {
  readonly scale: number;
  readonly points: number;
  /** Of each step, for every program; a collection begins each time with a copy of the same store. */
  readonly rounds: number;
}

/** As the bars want it. */
export const wholeVaultOptions: VaultOptions = { scale: 0.25, points: 60, rounds: 3 };

/** One program on one vault. */
export interface VaultPeerFigures {
  readonly restore: StepFigures;
  readonly verify: StepFigures;
  readonly collect: StepFigures;
  /** With all points, and with half of them collected. */
  readonly storedBytes: number;
  readonly keptBytes: number;
}

/** All programs, with one kind of changes. */
export interface VaultChangesFigures {
  readonly changes: ChangeKind;
  readonly changedBytes: number;
  readonly peers: Readonly<Record<string, VaultPeerFigures>>;
}

/** What a run measured. */
export interface VaultFigures extends VaultOptions {
  readonly versions: Readonly<Record<string, string>>;
  readonly vaults: readonly VaultChangesFigures[];
}

/** What of Kluis is compared with the same of restic. */
export type VaultStep = "restore" | "verify" | "collect";

interface Context {
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

/** Runs it and keeps its figures. */
export function measureVault(
  options: VaultOptions,
  context: Context,
): Promise<Stamped<VaultFigures>> {
  return withRunFolder("vault", async (folder) => {
    const { signal, log } = context;
    const stamp = await createStamp(signal);
    const versions: Record<string, string> = {};
    for (const peer of [kluis, restic]) versions[peer.name] = await peer.readVersion(signal);
    const vaults: VaultChangesFigures[] = [];
    for (const changes of changeKinds) {
      vaults.push(await measureChanges(folder, { ...options, changes }, context));
    }
    const stamped = { stamp, figures: { ...options, versions, vaults } };
    const path = await writeFigures(vaultName, stamped, isWhole(options) ? "whole" : "try");
    log(`figures: ${path}`);
    return stamped;
  });
}

async function measureChanges(
  folder: string,
  options: VaultOptions & { readonly changes: ChangeKind },
  context: Context,
): Promise<VaultChangesFigures> {
  const { signal, log } = context;
  const workload = await openWorkloadP({ scale: options.scale }, signal);
  const currentPath = join(folder, "disk.raw");
  await copyFile(workload.before, currentPath, constants.COPYFILE_FICLONE);
  const source = { sizeBytes: workload.sizeBytes, before: workload.before };
  const runs = new Map<Upkeep, PeerRun>();
  for (const upkeep of [kluisUpkeep, resticUpkeep]) {
    const place = join(folder, upkeep.peer.name);
    const run = { folder: join(place, "peer"), scratch: join(place, "scratch") };
    await mkdir(run.folder, { recursive: true });
    await mkdir(run.scratch);
    runs.set(upkeep, { ...run, source, currentPath, signal });
    await upkeep.peer.prepare(present(runs.get(upkeep), "a run was made"));
  }
  for (let point = 1; point <= options.points; point++) {
    if (point > 1) await changeDisk(currentPath, workload, { kind: options.changes, point });
    for (const [upkeep, run] of runs) await upkeep.backUpCurrent(run);
    if (point % 10 === 0) log(`${options.changes}: ${point} of ${options.points} points`);
  }
  const peers: Record<string, VaultPeerFigures> = {};
  const costs = await measureInTurns(runs, options, log);
  for (const [upkeep, run] of runs) {
    const storedBytes = await storedBytesOf(upkeep.peer.storeOf(run));
    const collect = await collectInRounds(upkeep, run, options);
    const keptBytes = await storedBytesOf(upkeep.peer.storeOf(run));
    const times = collect.map(toSeconds).join(", ");
    log(`${options.changes}, ${upkeep.peer.name}: collect ${times}`);
    await restoreNewest(upkeep, run, true);
    const { restore, verify } = present(costs.get(upkeep), "it was measured");
    peers[upkeep.peer.name] = {
      restore: summarizeStep(restore),
      verify: summarizeStep(verify),
      collect: summarizeStep(collect),
      storedBytes,
      keptBytes,
    };
    await rm(join(folder, upkeep.peer.name), { recursive: true });
    await syncFileSystem(benchFolder, signal);
  }
  const changedBytes = workload.changedPages * pageBytes;
  return { changes: options.changes, changedBytes, peers };
}

interface Steps {
  readonly restore: Cost[];
  readonly verify: Cost[];
}

/** Restores and verifies, each round beginning with another program; the first compares bytes. */
async function measureInTurns(
  runs: ReadonlyMap<Upkeep, PeerRun>,
  options: VaultOptions & { readonly changes: ChangeKind },
  log: Context["log"],
): Promise<ReadonlyMap<Upkeep, Steps>> {
  const costs = new Map<Upkeep, Steps>();
  for (const upkeep of runs.keys()) costs.set(upkeep, { restore: [], verify: [] });
  for (let round = 0; round < options.rounds; round++) {
    const order = round % 2 === 0 ? [...runs] : [...runs].reverse();
    for (const [upkeep, run] of order) {
      const restore = await restoreNewest(upkeep, run, round === 0);
      const verify = await upkeep.verify(run);
      const steps = present(costs.get(upkeep), "every program has its costs");
      steps.restore.push(restore);
      steps.verify.push(verify);
      const what = `${options.changes}, round ${round + 1}, ${upkeep.peer.name}`;
      log(`${what}: restore ${toSeconds(restore)}, verify ${toSeconds(verify)}`);
    }
  }
  return costs;
}

/**
 * Deletes the older half of the points and collects, so many times, each time from the same store, cache and
 * state, at the same place; all but the last time they are put back.
 */
async function collectInRounds(
  upkeep: Upkeep,
  run: PeerRun,
  { points, rounds }: VaultOptions,
): Promise<readonly Cost[]> {
  const before = `${run.folder}.before`;
  const costs: Cost[] = [];
  for (let round = 1; round <= rounds; round++) {
    // Copied in the last round too, so that all begin with the same in the page cache.
    await cp(run.folder, before, { recursive: true, preserveTimestamps: true });
    await syncFileSystem(before, run.signal);
    costs.push(await upkeep.collect(run, Math.ceil(points / 2)));
    if (round < rounds) {
      await rm(run.folder, { recursive: true });
      await rename(before, run.folder);
    } else await rm(before, { recursive: true });
    await syncFileSystem(run.folder, run.signal);
  }
  return costs;
}

async function restoreNewest(upkeep: Upkeep, run: PeerRun, compare: boolean): Promise<Cost> {
  const { signal } = run;
  const target = join(run.scratch, "target");
  await mkdir(target);
  await syncFileSystem(run.scratch, signal);
  const cost = await upkeep.peer.restore(run, target);
  const expected = run.currentPath;
  if (compare) await assertRestored(upkeep.peer.name, { target, expected }, signal);
  await rm(target, { recursive: true });
  await syncFileSystem(run.scratch, signal);
  return cost;
}

/** Writes as a guest would between two backups, in place. */
async function changeDisk(
  path: string,
  workload: WorkloadP,
  { kind, point }: { readonly kind: ChangeKind; readonly point: number },
): Promise<void> {
  const random = createSeededRandom(`bench/vault/${kind}`, seed + point);
  const file = await open(path, "r+");
  try {
    for (const page of drawChanges(workload, kind, seed + point)) {
      await file.write(random.bytes(pageBytes), 0, pageBytes, page * pageBytes);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

function drawChanges(workload: WorkloadP, kind: ChangeKind, drawSeed: number): readonly number[] {
  const { dataBytes, changedPages } = workload;
  if (kind === "pages") return drawPages(dataBytes, changedPages, drawSeed);
  const random = createPrng(drawSeed);
  const pages: number[] = [];
  while (pages.length < changedPages) {
    const first = random.below(dataBytes / pageBytes - runPages);
    const count = Math.min(runPages, changedPages - pages.length);
    for (let at = 0; at < count; at++) pages.push(first + at);
  }
  return pages;
}

/** How much of restic's wall time Kluis takes for a step, with each kind of changes. */
export function vaultRatios(
  figures: VaultFigures,
  step: VaultStep,
): Readonly<Record<ChangeKind, number>> {
  const ratios = figures.vaults.map(({ changes, peers }) => {
    const [ours, theirs] = [peers["kluis"], peers["restic"]];
    if (ours === undefined || theirs === undefined) throw new Error("both programs were measured");
    return [changes, ours[step].wallMs / theirs[step].wallMs] as const;
  });
  return Object.fromEntries(ratios) as Record<ChangeKind, number>;
}

/** The figures as Markdown. */
export function describeVault({ points, scale, rounds, versions, vaults }: VaultFigures): string {
  const names = Object.values(versions).join(", ");
  const rows = vaults.flatMap(({ changes, changedBytes, peers }) =>
    Object.entries(peers).map(([name, peer]) => {
      const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
      const steps = [peer.restore, peer.verify, peer.collect].flatMap(({ wallMs, cpuMs }) =>
        [wallMs, cpuMs].map((ms) => (ms / 1000).toFixed(2)),
      );
      const cells = [changes, megabytes(changedBytes), name, ...steps];
      return [...cells, megabytes(peer.storedBytes), megabytes(peer.keptBytes)];
    }),
  );
  const ratios = (["restore", "verify", "collect"] as const).flatMap((step) =>
    Object.entries(vaultRatios({ points, scale, rounds, versions, vaults }, step)).map(
      ([changes, ratio]) => `| ${step} wall kluis / restic, ${changes} | ${ratio.toFixed(3)} |`,
    ),
  );
  return [
    `Workload P at scale ${scale}, ${points} points, of which half are deleted; median of ${rounds}. Programs: ${names}.`,
    "",
    "| changes | MB each | program | restore: wall s | CPU s | verify: wall s | CPU s | prune and collect: wall s | CPU s | stored MB | kept MB |",
    "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ...rows.map((cells) => `| ${cells.join(" | ")} |`),
    "",
    "| ratio | |",
    "|---|---:|",
    ...ratios,
  ].join("\n");
}

function toSeconds({ wallMs }: Cost): string {
  return `${(wallMs / 1000).toFixed(2)} s`;
}

function isWhole(options: VaultOptions): boolean {
  const { scale, points, rounds } = wholeVaultOptions;
  return options.scale === scale && options.points === points && options.rounds >= rounds;
}

/** The command; see the file's head. */
export async function runVaultBench(words: readonly string[], signal: AbortSignal): Promise<void> {
  const { scale, points, rounds } = wholeVaultOptions;
  const { values } = parseArgs({
    args: [...words],
    options: {
      scale: { type: "string", default: String(scale) },
      points: { type: "string", default: String(points) },
      rounds: { type: "string", default: String(rounds) },
    },
  });
  const options = {
    scale: Number(values.scale),
    points: Number(values.points),
    rounds: Number(values.rounds),
  };
  const { figures } = await measureVault(options, { signal, log: (line) => console.log(line) });
  console.log(describeVault(figures));
}
