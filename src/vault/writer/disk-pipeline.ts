/**
 * Takes one disk into the vault: read a segment, scan it in a worker, note it in the map, store
 * what is new. Segments overlap; the map hears of them in order.
 */
import { allEnded } from "#base/all-ended.ts";
import { present } from "#base/assert.ts";
import { bytesEqual } from "#base/bytes.ts";
import { idBytes, pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import type { WindowMap } from "#formats/map-node.ts";
import type { DiskReader } from "#ports/disk.ts";
import { checksumBytes, xorChecksums, zeroWindowChecksum } from "#vault/hashing.ts";
import { segmentsPerDisk } from "#vault/limits.ts";
import type { MapBuilder } from "#vault/map/map-builder.ts";
import { type PageChange, planWindow } from "#vault/map/plan-window.ts";
import { type PageScan, pageStates, type WindowScan } from "#vault/workers/messages.ts";
import type { ScannedSegment } from "#vault/workers/worker-pool.ts";
import {
  pageChanges,
  type Segment,
  type TouchedWindow,
  type WholeWindows,
} from "#vault/writer/segment-plan.ts";
import { layOutPages, oldOffsetBytes, SegmentReader } from "#vault/writer/segment-reader.ts";
import type { WriteSession } from "#vault/writer/write-session.ts";

/** What a disk's transfer came to; bytes. */
export interface DiskTotals {
  /** What the map holds more (or less) than its base, in windows that are not all zeros. */
  mappedBytes: number;
  examinedBytes: number;
  changedBytes: number;
  newBytes: number;
  storedBytes: number;
}

/** A disk on its way into the vault. */
export interface PipelineOptions {
  readonly session: WriteSession;
  readonly reader: DiskReader;
  /** Content at the base point; needed where the plan has segments of pages. */
  readonly base: DiskReader | undefined;
  readonly map: MapBuilder;
  readonly checksumKey: Uint8Array;
  /** Called as segments end; `bytes` were examined or skipped since the last call. */
  readonly onProgress: (bytes: number) => void;
}

type Scanned =
  | { readonly kind: "windows"; readonly segment: ScannedSegment<WindowScan> }
  | { readonly kind: "pages"; readonly segment: ScannedSegment<PageScan> };

/** Which candidates of a segment have to be stored. */
class Wanted {
  readonly flags: Uint8Array;
  blocks = 0;
  bytes = 0;

  constructor(candidates: number) {
    this.flags = new Uint8Array(candidates);
  }

  add(at: number, lengthBytes: number): void {
    this.flags[at] = 1;
    this.blocks++;
    this.bytes += lengthBytes;
  }
}

/** Runs the segments of one disk; see the file's head. */
export class DiskPipeline {
  readonly #options: PipelineOptions;
  readonly #fresh: SegmentReader;
  readonly #old: SegmentReader | undefined;
  readonly #totals: DiskTotals = {
    mappedBytes: 0,
    examinedBytes: 0,
    changedBytes: 0,
    newBytes: 0,
    storedBytes: 0,
  };
  readonly #running = new Set<Promise<void>>();
  #order: Promise<void> = Promise.resolve();

  constructor(options: PipelineOptions) {
    this.#options = options;
    const { signal } = options.session;
    this.#fresh = new SegmentReader(options.reader, signal);
    this.#old = options.base && new SegmentReader(options.base, signal);
  }

  /**
   * Runs every segment; when it resolves the map knows all, and all blocks are in packs or open
   * packs. An error ends the session, and is thrown when nothing of this disk is under way.
   */
  async run(segments: Iterable<Segment> | AsyncIterable<Segment>): Promise<DiskTotals> {
    const { session } = this.#options;
    try {
      for await (const segment of segments) {
        await session.flushIfDue();
        await this.#admit(segment);
      }
    } catch (error) {
      session.fail(error);
    }
    await Promise.all(this.#running);
    session.signal.throwIfAborted();
    this.#totals.examinedBytes = this.#fresh.bytesRead;
    return this.#totals;
  }

  /** Starts a segment as soon as there is room for it. */
  async #admit(segment: Segment): Promise<void> {
    const { session } = this.#options;
    while (this.#running.size >= segmentsPerDisk) await Promise.race(this.#running);
    const buffer =
      segment.kind === "zeros" ? undefined : await session.buffers.take(session.signal);
    await session.gate.enter();
    const work = this.#process(segment, buffer, this.#order)
      .catch((error: unknown) => session.fail(error))
      .finally(() => {
        session.gate.leave();
        this.#running.delete(work);
      });
    this.#running.add(work);
  }

  /** Reads and scans now, notes after `before`, stores; the next segment notes after this one. */
  async #process(
    segment: Segment,
    buffer: ArrayBuffer | undefined,
    before: Promise<void>,
  ): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#order = promise;
    try {
      if (segment.kind === "zeros") {
        await this.#myTurn(before);
        await this.#noteZeros(segment.firstWindow, segment.windows);
        return;
      }
      const scanned = await this.#scan(segment, present(buffer, "a segment has a buffer"));
      await this.#myTurn(before);
      const wanted =
        segment.kind === "windows" && scanned.kind === "windows"
          ? await this.#noteWindows(segment, scanned.segment.scan)
          : await this.#notePages(segment, scanned);
      resolve();
      this.#options.session.buffers.give(await this.#store(scanned, wanted));
    } finally {
      resolve();
    }
    this.#options.onProgress(segmentBytesOf(segment));
  }

  /** Resolves when the segments before are noted; throws where the session has failed meanwhile. */
  async #myTurn(before: Promise<void>): Promise<void> {
    await before;
    this.#options.session.signal.throwIfAborted();
  }

  async #scan(segment: Exclude<Segment, { kind: "zeros" }>, buffer: ArrayBuffer): Promise<Scanned> {
    const { pool } = this.#options.session;
    if (segment.kind === "windows") {
      await this.#fresh.readWindows(segment.windows, buffer);
      const windows = segment.windows.length;
      return { kind: "windows", segment: await pool.scanWindows({ buffer, windows, ids: true }) };
    }
    const old = present(this.#old, "a segment of pages has a base");
    await allEnded([
      this.#fresh.readPages(segment.windows, { buffer, startBytes: 0, zerosKnown: true }),
      old.readPages(segment.windows, { buffer, startBytes: oldOffsetBytes, zerosKnown: false }),
    ]);
    const layout = layOutPages(segment.windows);
    return { kind: "pages", segment: await pool.scanPages({ buffer, oldOffsetBytes, ...layout }) };
  }

  /** Seals what is wanted into the open pack; returns the segment's buffer. */
  async #store(scanned: Scanned, wanted: Wanted): Promise<ArrayBuffer> {
    const { pool, packs } = this.#options.session;
    if (wanted.blocks === 0) return await pool.release(scanned.segment);
    const ticket = await packs.take(wanted.blocks, wanted.bytes);
    const stored = pool.store(scanned.segment, wanted.flags, ticket);
    stored.catch(() => packs.abandon(ticket));
    const { buffer, frames } = await stored;
    let sealedBytes = 0;
    for (const frame of frames) sealedBytes += frame.sealedBytes;
    packs.deliver(ticket, new Uint8Array(buffer, 0, sealedBytes), frames);
    this.#totals.newBytes += wanted.bytes;
    this.#totals.storedBytes += sealedBytes;
    return buffer;
  }

  async #noteZeros(firstWindow: number, windows: number): Promise<void> {
    const { map } = this.#options;
    for (let window = firstWindow; window < firstWindow + windows; window++) {
      const base = await map.read(window);
      if (base === undefined) continue;
      this.#totals.changedBytes += windowBytes;
      await this.#update(window, base, undefined);
    }
    this.#options.onProgress(windows * windowBytes);
  }

  async #noteWindows(segment: WholeWindows, scan: WindowScan): Promise<Wanted> {
    const { map, session } = this.#options;
    const { windows, changedPages } = segment;
    const wanted = new Wanted(windows.length);
    await map.prepare(windows);
    for (const [at, window] of windows.entries()) {
      const base = await map.read(window);
      if (scan.zero[at] === 1) {
        if (base === undefined) continue;
        this.#totals.changedBytes += windowBytes;
        await this.#update(window, base, undefined);
        continue;
      }
      const checksum = scan.checksums.subarray(at * checksumBytes, (at + 1) * checksumBytes);
      const isSame = base !== undefined && bytesEqual(base.checksum, checksum);
      if (isSame && base.pieces.length === 1 && this.#isKept(base)) {
        await this.#update(window, base, base);
        continue;
      }
      const block = scan.ids.slice(at * idBytes, (at + 1) * idBytes);
      if (!isSame) this.#totals.changedBytes += (changedPages[at] ?? windowPages) * pageBytes;
      if (session.claim(block)) wanted.add(at, windowBytes);
      await this.#update(window, base, {
        checksum: checksum.slice(),
        pieces: [{ pages: windowPages, block, offsetPages: 0 }],
      });
    }
    return wanted;
  }

  /** Whether the vault still has all that the base holds at a window. */
  #isKept(base: WindowMap): boolean {
    const { session } = this.#options;
    return base.pieces.every(({ block }) => block === undefined || session.has(block));
  }

  async #notePages(segment: Segment, scanned: Scanned): Promise<Wanted> {
    const scan = scanned.segment.scan as PageScan;
    const { windows } = segment as Extract<Segment, { kind: "pages" }>;
    const blocks = splitIds(scan.blockIds);
    const wanted = new Wanted(blocks.length);
    for (const [at, id] of blocks.entries()) {
      if (!this.#options.session.claim(id)) continue;
      wanted.add(at, present(scan.blockBytes[at], "a block has a length"));
    }
    let slot = 0;
    await this.#options.map.prepare(windows.map(({ window }) => window));
    for (const [at, touched] of windows.entries()) {
      const changes: PageChange[] = [];
      for (let page = 0; page < windowPages; page++) {
        if (touched.pages[page] === pageChanges.none) continue;
        const change = toPageChange(scan, slot++, page, blocks);
        if (change !== undefined) changes.push(change);
      }
      await this.#noteChanges(touched, changes, scan.checksumDeltas.subarray(at * checksumBytes));
    }
    return wanted;
  }

  async #noteChanges(
    touched: TouchedWindow,
    changes: readonly PageChange[],
    deltas: Uint8Array,
  ): Promise<void> {
    const { map, checksumKey } = this.#options;
    const base = await map.read(touched.window);
    if (changes.length === 0) {
      // Said all the same: the map wants to hear of the window that holds the end of a shrunk disk.
      await this.#update(touched.window, base, base);
      return;
    }
    const old = base?.checksum ?? zeroWindowChecksum(checksumKey);
    const checksum = xorChecksums(old, deltas.subarray(0, checksumBytes));
    this.#totals.changedBytes += changes.length * pageBytes;
    // Blocks may hold zero pages, so only the checksum tells that nothing but zeros is left.
    const isZero = bytesEqual(checksum, zeroWindowChecksum(checksumKey));
    const fresh = isZero ? undefined : planWindow(base, changes, checksum);
    await this.#update(touched.window, base, fresh);
  }

  async #update(
    window: number,
    base: WindowMap | undefined,
    fresh: WindowMap | undefined,
  ): Promise<void> {
    if (base === undefined && fresh !== undefined) this.#totals.mappedBytes += windowBytes;
    if (base !== undefined && fresh === undefined) this.#totals.mappedBytes -= windowBytes;
    await this.#options.map.update(window, fresh);
  }
}

function toPageChange(
  scan: PageScan,
  slot: number,
  page: number,
  blocks: readonly Uint8Array[],
): PageChange | undefined {
  const state = scan.states[slot];
  if (state === pageStates.same) return undefined;
  if (state === pageStates.zero) {
    return { firstPage: page, pages: 1, block: undefined, offsetPages: 0 };
  }
  return {
    firstPage: page,
    pages: 1,
    block: present(blocks[scan.blocks[slot] ?? 0], "a stored page has a block"),
    offsetPages: scan.pageInBlock[slot] ?? 0,
  };
}

function splitIds(ids: Uint8Array): readonly Uint8Array[] {
  const list: Uint8Array[] = [];
  for (let at = 0; at < ids.byteLength; at += idBytes) list.push(ids.slice(at, at + idBytes));
  return list;
}

function segmentBytesOf(segment: Exclude<Segment, { kind: "zeros" }>): number {
  return segment.windows.length * windowBytes;
}
