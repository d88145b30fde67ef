/**
 * Finds what changed on a disk without change tracking: reads it, computes each window's checksum
 * and compares it with the map of an earlier point. Nothing is fetched from the vault but the map.
 */
import { bytesEqual } from "#base/bytes.ts";
import { Pool } from "#base/pool.ts";
import { leafWindows, windowBytes } from "#formats/geometry.ts";
import type { DiskReader, Extent } from "#ports/disk.ts";
import { checksumBytes } from "#vault/hashing.ts";
import { segmentBytes, segmentsPerWorker } from "#vault/limits.ts";
import { type DiskMap, type MapAccess, windowsOf } from "#vault/map/map-source.ts";
import { type LeafRange, walkMap } from "#vault/map/walk-map.ts";
import type { WindowScan } from "#vault/workers/messages.ts";
import type { WorkerPool } from "#vault/workers/worker-pool.ts";
import { collectDataWindows, planFull, type WindowRun } from "#vault/writer/segment-plan.ts";
import { SegmentReader } from "#vault/writer/segment-reader.ts";

/** Windows that differ, as extents, and what it took to find them. */
export interface FoundChanges {
  readonly changes: readonly Extent[];
  readonly examinedBytes: number;
}

/** What the comparison runs on. */
export interface FindChangesDeps {
  readonly pool: WorkerPool;
  readonly workers: number;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
}

/**
 * Compares `reader` with `base`. Only the part that both have is compared; what lies behind the
 * end of the smaller one is the writer's to plan. When it throws nothing is under way any more.
 */
export async function findChanges(
  disk: { readonly reader: DiskReader; readonly base: DiskMap; readonly access: MapAccess },
  deps: FindChangesDeps,
): Promise<FoundChanges> {
  const failure = new AbortController();
  const signals = deps.signal === undefined ? [failure.signal] : [deps.signal, failure.signal];
  const scans = new Set<Promise<unknown>>();
  try {
    return await compare(disk, { ...deps, signal: AbortSignal.any(signals), scans });
  } catch (error) {
    failure.abort(error);
    await Promise.allSettled(scans);
    throw error;
  }
}

interface CompareDeps extends FindChangesDeps {
  /** Scans that are under way. */
  readonly scans: Set<Promise<unknown>>;
}

async function compare(
  disk: { readonly reader: DiskReader; readonly base: DiskMap; readonly access: MapAccess },
  deps: CompareDeps,
): Promise<FoundChanges> {
  const { reader, base, access } = disk;
  const { signal } = deps;
  const shared = Math.min(windowsOf(reader.sizeBytes), windowsOf(base.sizeBytes));
  const runs = cutRuns(await collectDataWindows(reader.extents(signal)), shared);
  const total = runs.reduce((sum, run) => sum + run.windows * windowBytes, 0);
  const source = new SegmentReader(reader, signal);
  const sums = new ChecksumStream({ ...deps, source, total }, runs);
  const changes: Extent[] = [];
  const range = { firstWindow: 0, windowCount: shared };
  for await (const part of walkMap({ map: base, access, range, signal })) {
    await comparePart(part, sums, changes);
  }
  await sums.end();
  const sizeBytes = Math.min(reader.sizeBytes, base.sizeBytes);
  return { changes: clip(changes, sizeBytes), examinedBytes: source.bytesRead };
}

async function comparePart(
  part: LeafRange,
  sums: ChecksumStream,
  changes: Extent[],
): Promise<void> {
  const end = part.firstWindow + part.windowCount;
  let window = part.firstWindow;
  while (window < end) {
    // Where neither map nor disk holds anything, skip to the next window that the disk has.
    if (part.leaf === undefined) window = Math.min(end, Math.max(window, await sums.nextWindow()));
    if (window === end) return;
    const stored = part.leaf?.windows[window % leafWindows]?.checksum;
    const actual = await sums.take(window);
    const isSame =
      stored === undefined || actual === undefined ? stored === actual : bytesEqual(stored, actual);
    if (!isSame) pushWindow(changes, window, actual === undefined ? "zero" : "data");
    window++;
  }
}

function pushWindow(changes: Extent[], window: number, kind: Extent["kind"]): void {
  const offsetBytes = window * windowBytes;
  const last = changes.at(-1);
  if (last?.kind === kind && last.offsetBytes + last.lengthBytes === offsetBytes) {
    changes[changes.length - 1] = { ...last, lengthBytes: last.lengthBytes + windowBytes };
  } else {
    changes.push({ offsetBytes, lengthBytes: windowBytes, kind });
  }
}

function clip(changes: readonly Extent[], sizeBytes: number): readonly Extent[] {
  return changes.map((extent) => ({
    ...extent,
    lengthBytes: Math.min(extent.lengthBytes, sizeBytes - extent.offsetBytes),
  }));
}

function cutRuns(runs: readonly WindowRun[], windows: number): readonly WindowRun[] {
  return runs
    .map((run) => ({ ...run, windows: Math.min(run.windows, windows - run.firstWindow) }))
    .filter((run) => run.windows > 0);
}

interface SumsBatch {
  readonly windows: readonly number[];
  readonly scan: Promise<WindowScan>;
}

interface StreamDeps extends CompareDeps {
  readonly source: SegmentReader;
  /** Bytes of all windows, for progress. */
  readonly total: number;
}

/** Checksums of a disk's data windows in order, computed ahead by the workers. */
class ChecksumStream {
  readonly #deps: StreamDeps;
  readonly #plan: Iterator<readonly number[]>;
  readonly #buffers: Pool<ArrayBuffer>;
  readonly #ahead: SumsBatch[] = [];
  readonly #depth: number;
  #current: { readonly windows: readonly number[]; readonly scan: WindowScan } | undefined;
  #at = 0;
  #done = 0;

  constructor(deps: StreamDeps, runs: readonly WindowRun[]) {
    this.#deps = deps;
    this.#plan = windowBatches(runs);
    this.#depth = deps.workers * segmentsPerWorker;
    this.#buffers = new Pool({ size: this.#depth, make: () => new ArrayBuffer(segmentBytes) });
  }

  /** The next window that holds data, or Infinity. */
  async nextWindow(): Promise<number> {
    while (this.#current === undefined || this.#at >= this.#current.windows.length) {
      if (!(await this.#advance())) return Infinity;
    }
    return this.#current.windows[this.#at] ?? Infinity;
  }

  /** The checksum of `window`, which is at or before the next one; `undefined` where it is zeros. */
  async take(window: number): Promise<Uint8Array | undefined> {
    if ((await this.nextWindow()) !== window || this.#current === undefined) return undefined;
    const at = this.#at++;
    const { scan } = this.#current;
    if (scan.zero[at] === 1) return undefined;
    return scan.checksums.subarray(at * checksumBytes, (at + 1) * checksumBytes);
  }

  /** Lets everything in flight end. */
  async end(): Promise<void> {
    while (await this.#advance()) continue;
  }

  async #advance(): Promise<boolean> {
    while (this.#ahead.length < this.#depth) {
      const next = this.#plan.next();
      if (next.done === true) break;
      const scan = this.#scan(next.value);
      this.#deps.scans.add(scan);
      const forget = (): void => void this.#deps.scans.delete(scan);
      scan.then(forget, forget);
      this.#ahead.push({ windows: next.value, scan });
    }
    const batch = this.#ahead.shift();
    if (batch === undefined) return false;
    this.#deps.signal?.throwIfAborted();
    this.#current = { windows: batch.windows, scan: await batch.scan };
    this.#at = 0;
    this.#done += batch.windows.length * windowBytes;
    this.#deps.onProgress(this.#done, this.#deps.total);
    return true;
  }

  async #scan(windows: readonly number[]): Promise<WindowScan> {
    const { pool, source, signal } = this.#deps;
    const buffer = await this.#buffers.take(signal);
    await source.readWindows(windows, buffer);
    const segment = await pool.scanWindows({ buffer, windows: windows.length, ids: false });
    this.#buffers.give(await pool.release(segment));
    return segment.scan;
  }
}

function* windowBatches(runs: readonly WindowRun[]): Generator<readonly number[]> {
  for (const segment of planFull(runs)) if (segment.kind === "windows") yield segment.windows;
}
