/**
 * How fast and how lean the block index is: `node bench/index.ts [--entries N] [--json]`.
 *
 * Entries are those of full backups of 256 KiB windows (64 Ki a segment, 128 a pack), made from a
 * counter cipher. Index files lie in a new folder below the temporary one: 35 bytes an entry, so 0.7 GB
 * for the 20 million of the default and 3 GB for the 84 million of 20 TiB. Times are of the process's
 * clock; CPU time of the main thread stands beside them, because other work may share the machine.
 */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

import { assert } from "#base/assert.ts";
import { toHex } from "#base/bytes.ts";
import { idBytes } from "#formats/geometry.ts";
import {
  encodeIndexSegment,
  fromIndexColumns,
  type IndexPackColumns,
  parseIndexSegment,
} from "#formats/index-segment.ts";
import { createPrng } from "#testing/seed.ts";
import {
  pageBlocks,
  type SyntheticBlocks,
  syntheticIds,
  syntheticKey,
  syntheticSegment,
} from "#testing/synthetic-index.ts";
import { type BlockIndex, openIndex } from "#vault/index/block-index.ts";
import { IdTable } from "#vault/index/id-table.ts";

import { storedBytesOf } from "./stored-bytes.ts";

const segmentEntries = 64 * 1024;
/** Ids that are made before a clock starts. */
const batchIds = 64 * 1024;
const key = syntheticKey("bench/index");
/** Blocks of single pages: 64 GiB of them. */
const pageEntries = 16 * 1024 * 1024;
/** Of 2,048 lookups each. */
const coldBatches = 5;

/** A rate, by wall clock and by CPU time of the thread. */
export interface Rate {
  readonly perSecond: number;
  readonly perCpuSecond: number;
}

/** What one run measured. */
export interface IndexFigures {
  readonly entries: number;
  /** Entering ids into an empty table that grows. */
  readonly insert: Rate;
  /** Segments of the vault, decoded already, to cache files, table and snapshot. */
  readonly rebuild: Rate;
  /** Parsing an index segment. */
  readonly parse: Rate;
  /** Ids that are not there. */
  readonly miss: Rate;
  /** `has` of ids in the order of their packs. */
  readonly hitInOrder: Rate;
  /** `lookup`, with location, of ids in the order of their packs. */
  readonly locateInOrder: Rate;
  /** `has` of ids in random order: nearly each reads a page of a file. */
  readonly hitRandom: Rate;
  /** The same after the machine has dropped the cache files from memory: each waits for the disk. */
  readonly hitRandomCold: Rate;
  /** Of blocks of one changed page each, the smallest there are: memory, and bytes of cache file. */
  readonly pageBlockTableBytes: number;
  readonly pageBlockFileBytes: number;
  /** Of a strange id to read an entry in vain. */
  readonly falsePositiveShare: number;
  readonly tableBytesPerEntry: number;
  readonly memoryBytes: number;
  /** Growth of the process from before the index was opened to after, garbage collected. */
  readonly residentBytes: number;
  /** Opening with snapshot and files in the machine's page cache. */
  readonly openWarmMs: number;
  /** Opening from cache files when there is no snapshot, and writing one. */
  readonly openFromFiles: Rate;
}

/** Measures an index of `entries` entries in a folder of its own below `parent`, which it removes. */
export async function measureIndex(entries: number, parent = tmpdir()): Promise<IndexFigures> {
  const folder = await mkdtemp(join(parent, "kluis-bench-index-"));
  try {
    const built = await measureBuild(folder, entries);
    const warm = await measureInNewProcess(folder, entries);
    const fromFiles = await measureOpenFromFiles(folder, entries);
    const table = measureInsert(entries);
    const pages = await measurePageBlocks(join(folder, "pages"));
    return { entries, ...table, ...built, ...warm, ...fromFiles, ...pages, parse: measureParse() };
  } finally {
    await rm(folder, { recursive: true });
  }
}

function measureInsert(entries: number): { readonly insert: Rate } {
  const table = new IdTable();
  const timer = new Timer();
  for (let first = 0; first < entries; first += batchIds) {
    const count = Math.min(batchIds, entries - first);
    const ids = syntheticIds(key, first, count);
    timer.run(count, () => {
      for (let at = 0; at < count; at++) table.insert(ids, at * idBytes, first + at, false);
    });
  }
  assert(table.count === entries, "every id was entered");
  return { insert: timer.rate };
}

async function measureBuild(folder: string, entries: number): Promise<{ readonly rebuild: Rate }> {
  const makeMs = { wall: 0, cpu: 0 };
  const before = now();
  const index = await openIndex({
    segmentNames: segmentNames(entries),
    readSegment: (name) => {
      const start = now();
      const packs = makeSegment(name, entries);
      makeMs.wall += now().wallMs - start.wallMs;
      makeMs.cpu += now().cpuMs - start.cpuMs;
      return Promise.resolve(packs);
    },
    cacheDirectory: folder,
  });
  const opened = now();
  const rebuild = rateOf(entries, {
    wallMs: opened.wallMs - before.wallMs - makeMs.wall,
    cpuMs: opened.cpuMs - before.cpuMs - makeMs.cpu,
  });
  await index.close();
  return { rebuild };
}

type PageFigures = Pick<IndexFigures, "pageBlockTableBytes" | "pageBlockFileBytes">;

/** An index of blocks of one page each: what an entry of them takes. */
async function measurePageBlocks(folder: string): Promise<PageFigures> {
  await mkdir(folder, { mode: 0o700 });
  const index = await openIndex({
    segmentNames: segmentNames(pageEntries),
    readSegment: (name) => Promise.resolve(makeSegment(name, pageEntries, pageBlocks)),
    cacheDirectory: folder,
  });
  const { tableBytes } = index.statistics;
  await index.close();
  await rm(join(folder, "table"));
  const fileBytes = await storedBytesOf(folder);
  return {
    pageBlockTableBytes: tableBytes / pageEntries,
    pageBlockFileBytes: fileBytes / pageEntries,
  };
}

type WarmFigures = Omit<
  IndexFigures,
  "entries" | "insert" | "rebuild" | "openFromFiles" | "parse" | keyof PageFigures
>;

/** {@link measureWarm} in a process that did nothing else, so that its memory is the index's. */
async function measureInNewProcess(folder: string, entries: number): Promise<WarmFigures> {
  const script = import.meta.filename;
  const args = ["--expose-gc", script, "--entries", String(entries), "--warm", folder];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  return JSON.parse(stdout) as WarmFigures;
}

async function measureWarm(folder: string, entries: number): Promise<WarmFigures> {
  const residentBefore = resident();
  const before = now();
  const index = await openWarm(folder, entries);
  const openWarmMs = now().wallMs - before.wallMs;
  const residentBytes = resident() - residentBefore;
  assert(index.statistics.rebuiltSegments === 0, "a warm open reads nothing from the vault");
  const queries = Math.min(entries, 4 * 1024 * 1024);
  const miss = measureHas(index, { first: 2 ** 40, count: queries, expected: 0 });
  const { strangers, tableBytes, memoryBytes } = index.statistics;
  const hitInOrder = measureHas(index, { first: 0, count: queries, expected: 1 });
  const locateInOrder = measureLocate(index, queries);
  const hitRandom = measureRandom(index, entries, 50);
  await dropFromMemory(folder);
  const hitRandomCold = measureRandom(index, entries, coldBatches);
  await index.close();
  return {
    miss,
    hitInOrder,
    locateInOrder,
    hitRandom,
    hitRandomCold,
    falsePositiveShare: strangers / queries,
    tableBytesPerEntry: tableBytes / entries,
    memoryBytes,
    residentBytes,
    openWarmMs,
  };
}

async function measureOpenFromFiles(
  folder: string,
  entries: number,
): Promise<{ readonly openFromFiles: Rate }> {
  await rm(join(folder, "table"));
  const timer = new Timer();
  const start = now();
  const index = await openWarm(folder, entries);
  const end = now();
  timer.add(entries, { wallMs: end.wallMs - start.wallMs, cpuMs: end.cpuMs - start.cpuMs });
  await index.close();
  return { openFromFiles: timer.rate };
}

/** One by one, as a backup asks. */
function countFound(index: BlockIndex, ids: Uint8Array): number {
  let found = 0;
  for (let at = 0; at < ids.length; at += idBytes) if (index.has(ids, at)) found++;
  return found;
}

function measureHas(
  index: BlockIndex,
  what: { readonly first: number; readonly count: number; readonly expected: 0 | 1 },
): Rate {
  const timer = new Timer();
  for (let done = 0; done < what.count; done += batchIds) {
    const count = Math.min(batchIds, what.count - done);
    const ids = syntheticIds(key, what.first + done, count);
    let found = 0;
    timer.run(count, () => {
      found = countFound(index, ids);
    });
    assert(found === count * what.expected, "each lookup gave the right answer");
  }
  return timer.rate;
}

function measureLocate(index: BlockIndex, queries: number): Rate {
  const timer = new Timer();
  for (let done = 0; done < queries; done += batchIds) {
    const count = Math.min(batchIds, queries - done);
    const ids = syntheticIds(key, done, count);
    timer.run(count, () => {
      for (let at = 0; at < count; at++) {
        const place = index.lookup(ids.subarray(at * idBytes, (at + 1) * idBytes));
        assert(place !== undefined, "each block was found");
      }
    });
  }
  return timer.rate;
}

/** Has the machine forget what it keeps of the files in a folder; they have to be read from the disk. */
async function dropFromMemory(folder: string): Promise<void> {
  const run = promisify(execFile);
  await run("sync", ["-f", folder]);
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    // A count of 0 asks dd to drop the whole file, and copies nothing.
    await run("dd", [`if=${path}`, "of=/dev/null", "iflag=nocache", "count=0", "status=none"]);
  }
}

function measureRandom(index: BlockIndex, entries: number, batches: number): Rate {
  const random = createPrng(batches);
  const timer = new Timer();
  const count = 2048;
  const ids = new Uint8Array(count * idBytes);
  for (let batch = 0; batch < batches; batch++) {
    for (let at = 0; at < count; at++) {
      const first = random.below(entries / 2) * 2;
      ids.set(syntheticIds(key, first, 1), at * idBytes);
    }
    let found = 0;
    timer.run(count, () => {
      found = countFound(index, ids);
    });
    assert(found === count, "each block was found");
  }
  return timer.rate;
}

function measureParse(): Rate {
  const { packs } = syntheticSegment(key, 0, segmentEntries);
  const text = encodeIndexSegment(packs.map(fromIndexColumns));
  const timer = new Timer();
  for (let round = 0; round < 20; round++) {
    timer.run(segmentEntries, () => {
      parseIndexSegment(text);
    });
  }
  return timer.rate;
}

function openWarm(folder: string, entries: number): Promise<BlockIndex> {
  return openIndex({
    segmentNames: segmentNames(entries),
    readSegment: () => Promise.reject(new Error("a warm cache reads nothing")),
    cacheDirectory: folder,
  });
}

/** A segment's name is its number, so that it can be made from its name. */
function segmentNames(entries: number): Uint8Array[] {
  return Array.from({ length: Math.ceil(entries / segmentEntries) }, (_, at) => {
    const name = Buffer.alloc(32, 0xab);
    name.writeUInt32BE(at);
    return new Uint8Array(name);
  });
}

function makeSegment(
  name: Uint8Array,
  entries: number,
  blocks?: SyntheticBlocks,
): IndexPackColumns[] {
  const first = Number.parseInt(toHex(name.subarray(0, 4)), 16) * segmentEntries;
  return syntheticSegment(key, first, Math.min(segmentEntries, entries - first), blocks).packs;
}

interface Moment {
  readonly wallMs: number;
  readonly cpuMs: number;
}

function now(): Moment {
  const { user, system } = process.threadCpuUsage();
  return { wallMs: performance.now(), cpuMs: (user + system) / 1000 };
}

function resident(): number {
  globalThis.gc?.();
  globalThis.gc?.();
  return process.memoryUsage.rss();
}

function rateOf(count: number, time: Moment): Rate {
  return {
    perSecond: Math.round((count / time.wallMs) * 1000),
    perCpuSecond: Math.round((count / time.cpuMs) * 1000),
  };
}

/** Adds up the time of many short runs. */
class Timer {
  #count = 0;
  #wallMs = 0;
  #cpuMs = 0;

  run(count: number, work: () => void): void {
    const start = now();
    work();
    const end = now();
    this.add(count, { wallMs: end.wallMs - start.wallMs, cpuMs: end.cpuMs - start.cpuMs });
  }

  add(count: number, time: Moment): void {
    this.#count += count;
    this.#wallMs += time.wallMs;
    this.#cpuMs += time.cpuMs;
  }

  get rate(): Rate {
    return rateOf(this.#count, { wallMs: this.#wallMs, cpuMs: this.#cpuMs });
  }
}

/** The figures as lines of text. */
export function describeIndex(figures: IndexFigures): string {
  return Object.entries(figures)
    .map(([name, value]: [string, number | Rate]) => {
      if (typeof value === "number") return `${name.padEnd(20)} ${round(value)}`;
      const millions = (rate: number): string => (rate / 1e6).toFixed(2);
      return `${name.padEnd(20)} ${millions(value.perSecond)} M/s (${millions(value.perCpuSecond)} M/s of CPU)`;
    })
    .join("\n");
}

function round(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toPrecision(4);
}

/** The value of an option of the command line. */
function option(name: string): string | undefined {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
}

/** The command; see the file's head. */
export async function runIndexBench(): Promise<void> {
  const figures = await measureIndex(readEntries());
  const isJson = process.argv.includes("--json");
  console.log(isJson ? JSON.stringify(figures, undefined, 2) : describeIndex(figures));
}

function readEntries(): number {
  return Number(option("--entries") ?? 20_000_000);
}

if (import.meta.main) {
  const warm = option("--warm");
  if (warm === undefined) await runIndexBench();
  else console.log(JSON.stringify(await measureWarm(warm, readEntries())));
}
