/**
 * `npm run bench -- disk-size`: the same changes on a disk of 4 GiB and on one of 4 TiB that is
 * sparse behind its first GiB: how long an increment takes, as a whole process, in turns.
 *
 * Options: `--scale N` (1) of data and changes, `--rounds N` (5).
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { createStamp, writeFigures } from "./figures.ts";
import { withRunFolder } from "./folders.ts";
import { syncFileSystem } from "./measured-process.ts";
import { kluis } from "./peers/kluis.ts";
import type { PeerSource } from "./peers/peer.ts";
import { median } from "./statistics.ts";
import { openWorkloadP } from "./workloads/workload-p.ts";

const smallBytes = 4 * 2 ** 30;
const largeBytes = 4 * 2 ** 40;
const wholeRounds = 5;

/** What to measure. */
export interface DiskSizeOptions {
  readonly scale: number;
  readonly rounds: number;
}

/** Wall time of increments; medians, and every run. */
export interface DiskSizeFigures {
  readonly smallMs: number;
  readonly largeMs: number;
  readonly ratio: number;
  readonly smallRunsMs: readonly number[];
  readonly largeRunsMs: readonly number[];
}

/** Runs it. */
export function measureDiskSizes(
  options: DiskSizeOptions,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<DiskSizeFigures> {
  return withRunFolder("disk-size", (folder) => measureIn(folder, options, context));
}

async function measureIn(
  folder: string,
  options: DiskSizeOptions,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<DiskSizeFigures> {
  const { signal, log } = context;
  const small = await openSource(smallBytes, options.scale, signal);
  const large = await openSource(largeBytes, options.scale, signal);
  const smallRunsMs: number[] = [];
  const largeRunsMs: number[] = [];
  // The first round warms up: code, caches, files.
  for (let round = 0; round <= options.rounds; round++) {
    const smallMs = await timeIncrement(small, folder, signal);
    const largeMs = await timeIncrement(large, folder, signal);
    log(`round ${round}: 4 GiB ${smallMs.toFixed(0)} ms, 4 TiB ${largeMs.toFixed(0)} ms`);
    if (round === 0) continue;
    smallRunsMs.push(smallMs);
    largeRunsMs.push(largeMs);
  }
  const smallMs = median(smallRunsMs);
  const largeMs = median(largeRunsMs);
  return { smallMs, largeMs, ratio: largeMs / smallMs, smallRunsMs, largeRunsMs };
}

async function openSource(
  sizeBytes: number,
  scale: number,
  signal: AbortSignal,
): Promise<PeerSource> {
  const { before, after, overlay } = await openWorkloadP({ scale, sizeBytes }, signal);
  return { sizeBytes, before, changed: { after, overlay } };
}

/** One increment on a fresh first point, from the start of the process until all is durable. */
async function timeIncrement(
  source: PeerSource,
  folder: string,
  signal: AbortSignal,
): Promise<number> {
  const run = {
    folder: join(folder, "kluis"),
    scratch: join(folder, "scratch"),
    source,
    currentPath: source.before,
    signal,
  };
  await mkdir(run.folder, { recursive: true });
  await mkdir(run.scratch);
  await kluis.prepare(run);
  await kluis.backUp(run);
  await syncFileSystem(folder, signal);
  const cost = await kluis.increment?.(run);
  if (cost === undefined) throw new Error("Cannot measure kluis: it makes no increments");
  await rm(folder, { recursive: true });
  return cost.wallMs;
}

/** The figures as a line of text. */
export function describeDiskSizes(figures: DiskSizeFigures): string {
  const { smallMs, largeMs, ratio } = figures;
  return `increment on 4 GiB ${smallMs.toFixed(0)} ms, on 4 TiB ${largeMs.toFixed(0)} ms: ${ratio.toFixed(2)} ×`;
}

/** The command; see the file's head. */
export async function runDiskSizeBench(
  words: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const { values } = parseArgs({
    args: [...words],
    options: {
      scale: { type: "string", default: "1" },
      rounds: { type: "string", default: String(wholeRounds) },
    },
  });
  const stamp = await createStamp(signal);
  const options = { scale: Number(values.scale), rounds: Number(values.rounds) };
  const context = { signal, log: (line: string) => console.log(line) };
  const figures = await measureDiskSizes(options, context);
  const isWhole = options.scale === 1 && options.rounds >= wholeRounds;
  await writeFigures("disk-size", { stamp, figures }, isWhole ? "whole" : "try");
  console.log(describeDiskSizes(figures));
}
