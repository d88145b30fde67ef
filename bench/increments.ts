/**
 * `npm run bench -- increments`: workload P again and again through the real engine and a store of
 * files: what each increment adds to the store, and how long the first and the newest recovery
 * point take to restore, in turns.
 *
 * Options: `--scale N` (1), `--increments N` (60), `--rounds N` of restores (3).
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { present } from "#base/assert.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { pageBytes } from "#formats/geometry.ts";
import type { DiskReader } from "#ports/disk.ts";
import { copyToTarget, type RecoveryPoint } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";

import { type BenchVault, openBenchVault, writeOneDisk } from "./bench-vault.ts";
import { createStamp, writeFigures } from "./figures.ts";
import { withRunFolder } from "./folders.ts";
import { WrittenDisk } from "./increments/written-disk.ts";
import { median, mean } from "./statistics.ts";
import { storedBytesOf } from "./stored-bytes.ts";
import { drawPages, openWorkloadP } from "./workloads/workload-p.ts";

const seed = 60_000;
const wholeIncrements = 60;
const wholeRounds = 3;
const compareBytes = 4 * 1024 * 1024;

/** What to measure. */
export interface IncrementsOptions {
  readonly scale: number;
  readonly increments: number;
  readonly rounds: number;
}

/** One increment. */
export interface IncrementFigures {
  /** Growth of the whole store for each changed byte. */
  readonly storedPerChanged: number;
  readonly wallMs: number;
}

/** What a run measured. */
export interface IncrementsFigures {
  readonly increments: readonly IncrementFigures[];
  readonly storedMean: number;
  readonly storedWorst: number;
  /** Medians. */
  readonly restoreFirstMs: number;
  readonly restoreNewestMs: number;
  readonly restoreRatio: number;
}

/** Runs it; the newest point is compared byte for byte. */
export function measureIncrements(
  options: IncrementsOptions,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<IncrementsFigures> {
  return withRunFolder("increments", (folder) => measureIn(folder, options, context));
}

async function measureIn(
  folder: string,
  options: IncrementsOptions,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<IncrementsFigures> {
  const { signal, log } = context;
  const workload = await openWorkloadP({ scale: options.scale }, signal);
  await using source = await imageAccess.openSource(workload.before, { format: "raw" }, signal);
  await using bench = await openBenchVault(folder);
  const disk = new WrittenDisk(source.reader, workload.sizeBytes / pageBytes);
  const { vault } = bench;
  const first = (await writeOneDisk(vault, { reader: disk.snapshot() }, signal)).manifest;
  let newest = first;
  const increments: IncrementFigures[] = [];
  for (let at = 1; at <= options.increments; at++) {
    const pages = drawPages(workload.dataBytes, workload.changedPages, seed + at);
    const step = await writeIncrement({ bench, disk, base: newest }, pages, signal);
    newest = step.manifest;
    increments.push(step.figures);
    if (at % 10 === 0) log(`increment ${at}: ${step.figures.storedPerChanged.toFixed(3)}`);
  }
  const times = { first: [] as number[], newest: [] as number[] };
  for (let round = 0; round < options.rounds; round++) {
    const reference = round === 0 ? disk.snapshot() : undefined;
    times.first.push(await timeRestore(vault, first, { folder, signal }));
    times.newest.push(await timeRestore(vault, newest, { folder, signal, reference }));
  }
  const stored = increments.map(({ storedPerChanged }) => storedPerChanged);
  const restoreFirstMs = median(times.first);
  const restoreNewestMs = median(times.newest);
  return {
    increments,
    storedMean: mean(stored),
    storedWorst: Math.max(...stored),
    restoreFirstMs,
    restoreNewestMs,
    restoreRatio: restoreNewestMs / restoreFirstMs,
  };
}

async function writeIncrement(
  place: { readonly bench: BenchVault; readonly disk: WrittenDisk; readonly base: RecoveryPoint },
  pages: readonly number[],
  signal: AbortSignal,
): Promise<{ readonly manifest: RecoveryPoint; readonly figures: IncrementFigures }> {
  const { bench, disk, base } = place;
  const baseDisk = present(base.disks[0], "a point has a disk");
  const before = disk.snapshot();
  const changes = disk.write(pages);
  const bytesBefore = await storedBytesOf(bench.storeFolder);
  const startMs = performance.now();
  const { manifest } = await writeOneDisk(
    bench.vault,
    {
      reader: disk.snapshot(),
      increment: { base: { disk: baseDisk, reader: before }, changes },
    },
    signal,
  );
  const wallMs = performance.now() - startMs;
  const grownBytes = (await storedBytesOf(bench.storeFolder)) - bytesBefore;
  const storedPerChanged = grownBytes / (pages.length * pageBytes);
  return { manifest, figures: { storedPerChanged, wallMs } };
}

async function timeRestore(
  vault: Vault,
  point: RecoveryPoint,
  options: {
    readonly folder: string;
    readonly signal: AbortSignal;
    readonly reference?: DiskReader | undefined;
  },
): Promise<number> {
  const disk = present(point.disks[0], "a point has a disk");
  const place = join(options.folder, "restored.raw");
  const { signal, reference } = options;
  const startMs = performance.now();
  {
    await using reader = vault.openDisk(disk);
    const request = { place, format: "raw", sizeBytes: disk.sizeBytes, overwrite: false } as const;
    await using target = await imageAccess.createTarget(request, signal);
    await copyToTarget(reader, target, { signal, onProgress: () => undefined });
  }
  const wallMs = performance.now() - startMs;
  if (reference !== undefined) await assertSame(place, reference, signal);
  await rm(place);
  return wallMs;
}

async function assertSame(
  place: string,
  reference: DiskReader,
  signal: AbortSignal,
): Promise<void> {
  await using restored = await imageAccess.openSource(place, { format: "raw" }, signal);
  const expected = new Uint8Array(compareBytes);
  const actual = new Uint8Array(compareBytes);
  for (let at = 0; at < reference.sizeBytes; at += compareBytes) {
    const length = Math.min(compareBytes, reference.sizeBytes - at);
    await reference.read(at, expected.subarray(0, length), signal);
    await restored.reader.read(at, actual.subarray(0, length), signal);
    if (Buffer.compare(expected, actual) === 0) continue;
    throw new Error(`The newest point was not restored as it was, at ${at}`);
  }
}

/** The figures as lines of text. */
export function describeIncrements(figures: IncrementsFigures): string {
  const { increments, storedMean, storedWorst, restoreRatio } = figures;
  const seconds = (ms: number): string => (ms / 1000).toFixed(2);
  return [
    `${increments.length} increments: growth of the store / changed ${storedMean.toFixed(3)} on average, ${storedWorst.toFixed(3)} in the worst`,
    `increment in process: median ${seconds(median(increments.map(({ wallMs }) => wallMs)))} s`,
    `restore: first ${seconds(figures.restoreFirstMs)} s, newest ${seconds(figures.restoreNewestMs)} s: ${restoreRatio.toFixed(2)} ×`,
  ].join("\n");
}

/** The command; see the file's head. */
export async function runIncrementsBench(
  words: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const { values } = parseArgs({
    args: [...words],
    options: {
      scale: { type: "string", default: "1" },
      increments: { type: "string", default: String(wholeIncrements) },
      rounds: { type: "string", default: String(wholeRounds) },
    },
  });
  const stamp = await createStamp(signal);
  const options = {
    scale: Number(values.scale),
    increments: Number(values.increments),
    rounds: Number(values.rounds),
  };
  const context = { signal, log: (line: string) => console.log(line) };
  const figures = await measureIncrements(options, context);
  const isWhole =
    options.scale === 1 && options.increments === wholeIncrements && options.rounds >= wholeRounds;
  await writeFigures("increments", { stamp, figures }, isWhole ? "whole" : "try");
  console.log(describeIncrements(figures));
}
