/**
 * `npm run bench -- tebibyte`: 2,621 changed pages anywhere on a disk of 1 TiB that is mapped all
 * over, through the real engine and a store of files. Growth counts every byte of every file: pack,
 * map packs, index segments, manifest.
 *
 * The disk's content is computed, and of its first recovery point only map and manifest are made: 4 Mi
 * windows, each a block of its own with a random id, in real map packs and index segments. That is
 * all that an increment reads of an earlier point. Half a minute, 1.2 GiB of memory.
 *
 * Options: `--size-gib N` (1024).
 */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";

import { systemClock } from "#base/clock.ts";
import { systemRandom } from "#base/random.ts";
import type { ManifestDisk } from "#formats/manifest.ts";
import { pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import { createGeneratedReader } from "#testing/generated-disk.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { createMapBuilder } from "#vault/map/map-builder.ts";
import { WorkerPool } from "#vault/workers/worker-pool.ts";
import { WriteSession } from "#vault/writer/write-session.ts";

import { commitOneDisk, openBenchVault, writeOneDisk } from "./bench-vault.ts";
import { createStamp, writeFigures } from "./figures.ts";
import { withRunFolder } from "./folders.ts";
import { storedBytesOf } from "./stored-bytes.ts";
import { drawPages } from "./workloads/workload-p.ts";

const changedPages = 2621;
const oldSeed = 1;
const newSeed = 2;
const drawSeed = 1024;
const idBytes = 24;
const checksumBytes = 16;
/** Windows whose random ids and checksums are made at once. */
const windowsAtOnce = 16 * 1024;

/** What a run measured; bytes. */
export interface TebibyteFigures {
  readonly sizeBytes: number;
  readonly changedBytes: number;
  /** The map of the first point, stored. */
  readonly baseBytes: number;
  readonly grownBytes: number;
  readonly packBytes: number;
  readonly mapBytes: number;
  readonly indexBytes: number;
  readonly growth: number;
  readonly wallMs: number;
}

/** Runs it on a disk of `sizeBytes`. */
export function measureTebibyte(
  sizeBytes: number,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<TebibyteFigures> {
  return withRunFolder("tebibyte", (folder) => measureIn(folder, sizeBytes, context));
}

async function measureIn(
  folder: string,
  sizeBytes: number,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<TebibyteFigures> {
  const { signal, log } = context;
  const base = await buildBase(folder, sizeBytes, signal);
  await using bench = await openBenchVault(folder);
  const baseBytes = await storedBytesOf(bench.storeFolder);
  log(`the first point's map takes ${(baseBytes / 1e6).toFixed(0)} MB`);
  const pages = drawPages(sizeBytes, changedPages, drawSeed);
  const fresh = new Map(pages.map((page) => [page, newSeed]));
  const startMs = performance.now();
  const { added } = await writeOneDisk(
    bench.vault,
    {
      reader: createGeneratedReader({ sizeBytes, seed: oldSeed, changedPages: fresh }),
      increment: {
        base: { disk: base, reader: createGeneratedReader({ sizeBytes, seed: oldSeed }) },
        changes: pages.map((page) => ({
          offsetBytes: page * pageBytes,
          lengthBytes: pageBytes,
          kind: "data",
        })),
      },
    },
    signal,
  );
  const wallMs = performance.now() - startMs;
  const grownBytes = (await storedBytesOf(bench.storeFolder)) - baseBytes;
  const changedBytes = changedPages * pageBytes;
  const { packBytes, mapBytes, indexBytes } = added;
  const growth = grownBytes / changedBytes;
  return {
    sizeBytes,
    changedBytes,
    baseBytes,
    grownBytes,
    packBytes,
    mapBytes,
    indexBytes,
    growth,
    wallMs,
  };
}

/** Commits a point of a disk of which every window is a block of its own; of it only the map is there. */
async function buildBase(
  folder: string,
  sizeBytes: number,
  signal: AbortSignal,
): Promise<ManifestDisk> {
  await using bench = await openBenchVault(folder);
  const workers = availableParallelism();
  await using session = new WriteSession({
    store: bench.store,
    keys: testKeys,
    index: bench.vault.index,
    random: systemRandom,
    clock: systemClock,
    workers,
    verify: true,
    startPool: () => new WorkerPool({ start: { keys: testKeys, verify: true }, size: workers }),
    signal,
  });
  const builder = createMapBuilder({
    sizeBytes,
    access: {
      nodeIdKey: testKeys.nodeIdKey,
      source: () => Promise.reject(new Error("a new map has nothing to read")),
    },
    emit: (node) => session.map.add(node),
  });
  const random = createSeededRandom("bench/tebibyte", drawSeed);
  const windows = sizeBytes / windowBytes;
  for (let first = 0; first < windows; first += windowsAtOnce) {
    const count = Math.min(windowsAtOnce, windows - first);
    const bytes = random.bytes(count * (idBytes + checksumBytes));
    for (let at = 0; at < count; at++) {
      const start = at * (idBytes + checksumBytes);
      const block = bytes.subarray(start, start + idBytes);
      const checksum = bytes.subarray(start + idBytes, start + idBytes + checksumBytes);
      const pieces = [{ pages: windowPages, block, offsetPages: 0 }];
      await builder.update(first + at, { checksum, pieces });
    }
    await session.flushIfDue();
  }
  const map = await builder.finish();
  await session.flush();
  const disk: ManifestDisk = {
    name: "disk",
    root: map.root,
    level: map.level,
    sizeBytes,
    tracking: "full",
    mappedBytes: sizeBytes,
    examinedBytes: sizeBytes,
    changedBytes: sizeBytes,
    newBytes: sizeBytes,
    storedBytes: sizeBytes,
  };
  await commitOneDisk(bench, disk, { session, signal });
  return disk;
}

/** The figures as lines of text. */
export function describeTebibyte(figures: TebibyteFigures): string {
  const share = (bytes: number): string => (bytes / figures.changedBytes).toFixed(3);
  const { grownBytes, packBytes, mapBytes, indexBytes } = figures;
  const rest = grownBytes - packBytes - mapBytes - indexBytes;
  return [
    `${figures.changedBytes / pageBytes} pages changed on ${figures.sizeBytes / 2 ** 30} GiB, all mapped: the store grew by ${share(grownBytes)} of what changed`,
    `  packs ${share(packBytes)}, map ${share(mapBytes)}, index ${share(indexBytes)}, manifest ${share(rest)}`,
    `  in process ${(figures.wallMs / 1000).toFixed(2)} s`,
  ].join("\n");
}

/** The command; see the file's head. */
export async function runTebibyteBench(
  words: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const { values } = parseArgs({
    args: [...words],
    options: { "size-gib": { type: "string", default: "1024" } },
  });
  const stamp = await createStamp(signal);
  const sizeBytes = Number(values["size-gib"]) * 2 ** 30;
  const context = { signal, log: (line: string) => console.log(line) };
  const figures = await measureTebibyte(sizeBytes, context);
  await writeFigures("tebibyte", { stamp, figures }, sizeBytes === 2 ** 40 ? "whole" : "try");
  console.log(describeTebibyte(figures));
}
