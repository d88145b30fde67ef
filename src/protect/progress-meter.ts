/**
 * How fast work goes and how long it will take. Pure: time comes in with each call.
 *
 * The rate is that of the last seconds, because that is what the remaining time depends on: a disk
 * whose sparse part is done slows down for good.
 */
import { assert } from "#base/assert.ts";

/** The rate is taken over at most this long. */
export const rateWindowMs = 8000;
/** Remaining time is told once there was this much to measure. */
const rateSpanMsMin = 400;
/** Samples kept for a part; one for each slice of the window. */
const samplesMax = 64;
const sampleEveryMs = rateWindowMs / samplesMax;
/** Parts of one run. */
const partsMax = 4096;

/** One part of the work at one moment. */
export interface PartProgress {
  readonly name: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly bytesPerSecond: number;
  /** Absent while there is nothing to tell it from. */
  readonly remainingMs?: number;
}

/** All parts and their sum. */
export interface MeterReading {
  readonly parts: readonly PartProgress[];
  readonly total: PartProgress;
}

interface Sample {
  readonly atMs: number;
  readonly bytes: number;
}

/** Progress of some bytes over time. */
class Track {
  doneBytes = 0;
  totalBytes = 0;
  readonly #samples: Sample[];

  constructor(atMs: number) {
    this.#samples = [{ atMs, bytes: 0 }];
  }

  note(atMs: number, bytes: number): void {
    const last = this.#samples.at(-1);
    if (last !== undefined && atMs - last.atMs < sampleEveryMs) return;
    this.#samples.push({ atMs, bytes });
    if (this.#samples.length > samplesMax + 1) this.#samples.shift();
  }

  /** Bytes a second from the oldest sample in the window until now. */
  rate(nowMs: number): { readonly bytesPerSecond: number; readonly spanMs: number } {
    while (this.#samples.length > 1 && nowMs - (this.#samples[1]?.atMs ?? nowMs) >= rateWindowMs) {
      this.#samples.shift();
    }
    const oldest = this.#samples[0];
    const spanMs = oldest === undefined ? 0 : nowMs - oldest.atMs;
    if (oldest === undefined || spanMs <= 0) return { bytesPerSecond: 0, spanMs: 0 };
    return { bytesPerSecond: ((this.doneBytes - oldest.bytes) * 1000) / spanMs, spanMs };
  }

  read(name: string, nowMs: number): PartProgress {
    const { doneBytes, totalBytes } = this;
    const { bytesPerSecond, spanMs } = this.rate(nowMs);
    const reading = { name, doneBytes, totalBytes, bytesPerSecond };
    const leftBytes = totalBytes - doneBytes;
    if (leftBytes <= 0) return { ...reading, remainingMs: 0 };
    if (bytesPerSecond <= 0 || spanMs < rateSpanMsMin) return reading;
    return { ...reading, remainingMs: (leftBytes * 1000) / bytesPerSecond };
  }
}

/** Collects progress of named parts. */
export class ProgressMeter {
  readonly #startMs: number;
  readonly #parts = new Map<string, Track>();
  readonly #total: Track;

  /** @param startMs Monotonic time at which the work begins. */
  constructor(startMs: number) {
    this.#startMs = startMs;
    this.#total = new Track(startMs);
  }

  /** Since the work began. */
  elapsedMs(nowMs: number): number {
    return nowMs - this.#startMs;
  }

  /** Notes that of the part `name` so many of so many bytes are done; totals may change. */
  update(
    name: string,
    bytes: { readonly doneBytes: number; readonly totalBytes: number },
    nowMs: number,
  ): void {
    let track = this.#parts.get(name);
    if (track === undefined) {
      assert(this.#parts.size < partsMax, "progress has a bounded number of parts");
      track = new Track(nowMs);
      this.#parts.set(name, track);
    }
    this.#total.doneBytes += bytes.doneBytes - track.doneBytes;
    this.#total.totalBytes += bytes.totalBytes - track.totalBytes;
    track.doneBytes = bytes.doneBytes;
    track.totalBytes = bytes.totalBytes;
    track.note(nowMs, track.doneBytes);
    this.#total.note(nowMs, this.#total.doneBytes);
  }

  /** The state now, parts in the order in which they were first heard of. */
  read(nowMs: number): MeterReading {
    const parts = [...this.#parts].map(([name, track]) => track.read(name, nowMs));
    return { parts, total: this.#total.read("total", nowMs) };
  }
}
