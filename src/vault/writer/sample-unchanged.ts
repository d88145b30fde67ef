/**
 * Compares a random sample of what a record of changes says is unchanged with the map of the base: a
 * record that misses changes, or a disk that was written behind it, is found out sooner or later.
 */
import { bytesEqual } from "#base/bytes.ts";
import type { RandomSource } from "#base/random.ts";
import { leafWindows, windowBytes } from "#formats/geometry.ts";
import type { ChangedExtents, DiskReader } from "#ports/disk.ts";
import { computeWindowChecksum, zeroWindowChecksum } from "#vault/hashing.ts";
import { type DiskMap, type MapAccess, windowsOf } from "#vault/map/map-source.ts";
import { walkMap } from "#vault/map/walk-map.ts";
import { SegmentReader } from "#vault/writer/segment-reader.ts";

/**
 * Windows that are looked at for each disk and run: 1 MiB. Half of them anywhere, half where the base
 * holds something, which on a sparse disk few random places do.
 */
export const sampleWindows = 4;

/** A disk whose changes are said to be known. */
export interface SampledDisk {
  readonly reader: DiskReader;
  readonly base: DiskMap;
  readonly changes: ChangedExtents;
}

/** What a sample needs of the vault. */
export interface SampleDeps {
  readonly access: MapAccess;
  readonly checksumKey: Uint8Array;
  readonly random: RandomSource;
  readonly signal: AbortSignal | undefined;
}

/** What a sample found. */
export interface SampleResult {
  readonly examinedBytes: number;
  /** Where the first window begins that differs although it is said not to; absent where none does. */
  readonly differsAtBytes?: number;
}

/** Takes and compares the sample; fewer windows where less is unchanged. Errors: those of reader and map. */
export async function sampleUnchanged(disk: SampledDisk, deps: SampleDeps): Promise<SampleResult> {
  // The last window of a smaller disk may be cut differently on both sides.
  const shared = Math.floor(Math.min(disk.reader.sizeBytes, disk.base.sizeBytes) / windowBytes);
  if (shared === 0) return { examinedBytes: 0 };
  const places = Array.from({ length: sampleWindows }, (_, at) => at % 2 === 1);
  const picked = await Promise.all(
    places.map((isMapped) => pick(disk.base, shared, isMapped, deps)),
  );
  const known = new Map(picked.map(({ window, checksum }) => [window, checksum]));
  const touched = touchedAmong([...known.keys()], disk.changes);
  const windows = [...known.keys()].filter((window) => !touched.has(window)).sort((a, b) => a - b);
  const reader = new SegmentReader(disk.reader, deps.signal);
  const buffer = new ArrayBuffer(windows.length * windowBytes);
  await reader.readWindows(windows, buffer);
  const differing = windows.find((window, at) => {
    const content = new Uint8Array(buffer, at * windowBytes, windowBytes);
    const expected = known.get(window) ?? zeroWindowChecksum(deps.checksumKey);
    return !bytesEqual(computeWindowChecksum(deps.checksumKey, content), expected);
  });
  return {
    examinedBytes: reader.bytesRead,
    ...(differing === undefined ? {} : { differsAtBytes: differing * windowBytes }),
  };
}

/** A window and its checksum in the base; `undefined` where it is zeros. */
interface Pick {
  readonly window: number;
  readonly checksum: Uint8Array | undefined;
}

/** A random window; with `isMapped` one of the first leaf that the base has from there on, if it has one. */
async function pick(
  map: DiskMap,
  shared: number,
  isMapped: boolean,
  deps: SampleDeps,
): Promise<Pick> {
  const window = randomBelow(shared, deps.random);
  const range = { firstWindow: window, windowCount: isMapped ? shared - window : 1 };
  for await (const { leaf, firstWindow, windowCount } of walkMap({
    map,
    ...deps,
    range,
    prefetch: 1,
  })) {
    if (leaf === undefined) continue;
    const held = Array.from({ length: windowCount }, (_, at) => firstWindow + at).filter(
      (each) => leaf.windows[each % leafWindows] !== undefined,
    );
    const chosen = held[randomBelow(held.length, deps.random)];
    if (chosen === undefined) continue;
    return { window: chosen, checksum: leaf.windows[chosen % leafWindows]?.checksum };
  }
  return { window, checksum: undefined };
}

/** Windows of `windows` in which something is said to have changed. */
function touchedAmong(windows: readonly number[], changes: ChangedExtents): ReadonlySet<number> {
  const touched = new Set<number>();
  for (const { offsetBytes, lengthBytes } of changes) {
    const first = Math.floor(offsetBytes / windowBytes);
    const end = windowsOf(offsetBytes + lengthBytes);
    for (const window of windows) if (window >= first && window < end) touched.add(window);
  }
  return touched;
}

function randomBelow(limit: number, random: RandomSource): number {
  // 48 bits: the bias is far below what a sample could show.
  const bytes = random.bytes(6);
  let value = 0;
  for (const byte of bytes) value = value * 256 + byte;
  return Math.floor((value / 2 ** 48) * limit);
}
