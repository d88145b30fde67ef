/** Writes a disk of a recovery point to a target: verified, in disk order, many segments at once. */
import { windowBytes } from "#formats/geometry.ts";
import { Pool } from "#base/pool.ts";
import type { DiskReader, DiskWriter } from "#ports/disk.ts";
import { restoreSegmentBytes } from "#vault/limits.ts";

/** Figures of a restore; bytes. */
export interface RestoreTotals {
  /** Written to the target as data. */
  dataBytes: number;
  /** Left sparse, or written as zeros. */
  zeroBytes: number;
}

/**
 * Copies all of `reader` to `writer` and commits it.
 *
 * @param options.segments How many segments of 4 MiB are in flight.
 * @param options.onProgress Told the bytes of the disk that are done, zeros included.
 */
export async function restoreDisk(
  reader: DiskReader,
  writer: DiskWriter,
  options: {
    readonly segments: number;
    readonly signal: AbortSignal | undefined;
    readonly onProgress: (doneBytes: number) => void;
  },
): Promise<RestoreTotals> {
  const totals: RestoreTotals = { dataBytes: 0, zeroBytes: 0 };
  const { signal, onProgress } = options;
  const buffers = new Pool({
    size: options.segments,
    make: () => new Uint8Array(restoreSegmentBytes),
  });
  const running = new Set<Promise<void>>();
  let failure: { readonly error: unknown } | undefined;
  const start = (work: Promise<void>): void => {
    const tracked = work
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => running.delete(tracked));
    running.add(tracked);
  };
  for await (const part of cutSegments(reader, signal)) {
    if (failure !== undefined) break;
    if (part.kind === "zero") {
      await writer.zero(part.offsetBytes, part.lengthBytes, signal);
      totals.zeroBytes += part.lengthBytes;
      onProgress(totals.dataBytes + totals.zeroBytes);
      continue;
    }
    const buffer = await buffers.take();
    const copy = async (): Promise<void> => {
      const bytes = buffer.subarray(0, part.lengthBytes);
      await reader.read(part.offsetBytes, bytes, signal);
      await writer.write(part.offsetBytes, bytes, signal);
      totals.dataBytes += part.lengthBytes;
      onProgress(totals.dataBytes + totals.zeroBytes);
    };
    start(copy().finally(() => buffers.give(buffer)));
  }
  await Promise.all(running);
  if (failure !== undefined) throw failure.error;
  await writer.commit(signal);
  return totals;
}

interface Part {
  readonly kind: "data" | "zero";
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** Extents joined and cut into parts: data of at most a segment, zeros of any length. */
async function* cutSegments(
  reader: DiskReader,
  signal: AbortSignal | undefined,
): AsyncGenerator<Part> {
  let open: { kind: Part["kind"]; offsetBytes: number; lengthBytes: number } | undefined;
  for await (const extent of reader.extents(signal)) {
    signal?.throwIfAborted();
    if (open !== undefined && open.kind === extent.kind) open.lengthBytes += extent.lengthBytes;
    else {
      if (open !== undefined) yield open;
      open = { ...extent };
    }
    while (open.kind === "data" && open.lengthBytes >= restoreSegmentBytes) {
      const whole: number = restoreSegmentBytes - (open.offsetBytes % windowBytes);
      yield { kind: "data", offsetBytes: open.offsetBytes, lengthBytes: whole };
      open = {
        kind: "data",
        offsetBytes: open.offsetBytes + whole,
        lengthBytes: open.lengthBytes - whole,
      };
    }
  }
  if (open !== undefined && open.lengthBytes > 0) yield open;
}
