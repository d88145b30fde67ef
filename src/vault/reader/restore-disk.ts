/** Writes a disk of a recovery point to a target: verified, in disk order, many segments at once. */
import { allocateAligned } from "#base/aligned-memory.ts";
import { assert } from "#base/assert.ts";
import { windowBytes } from "#formats/geometry.ts";
import { Pool } from "#base/pool.ts";
import type { DiskReader, DiskWriter } from "#ports/disk.ts";

/** Figures of a restore; bytes. */
export interface RestoreTotals {
  /** Written to the target as data. */
  dataBytes: number;
  /** Left sparse, or written as zeros. */
  zeroBytes: number;
}

/**
 * Copies all of `reader` to `writer` and commits it. When it throws nothing is under way any more,
 * and nothing was committed.
 *
 * @param writer At least as large as the disk.
 * @param options.segments How many segments of `segmentBytes` are in flight; that is a multiple of a window.
 * @param options.onProgress Told the bytes of the disk that are done, zeros included.
 */
export async function restoreDisk(
  reader: DiskReader,
  writer: DiskWriter,
  options: {
    readonly segments: number;
    readonly segmentBytes: number;
    readonly signal: AbortSignal | undefined;
    readonly onProgress: (doneBytes: number) => void;
  },
): Promise<RestoreTotals> {
  assert(writer.sizeBytes >= reader.sizeBytes, "the disk fits the target");
  const totals: RestoreTotals = { dataBytes: 0, zeroBytes: 0 };
  const { segments, segmentBytes, signal, onProgress } = options;
  assert(segmentBytes % windowBytes === 0, "segments begin on windows");
  // Shared: what is restored is opened there, by the threads that check it.
  const memory = allocateAligned(segments * segmentBytes, "shared");
  let madeBytes = 0;
  const buffers = new Pool({
    size: segments,
    make: () => memory.subarray(madeBytes, (madeBytes += segmentBytes)),
  });
  const running = new Set<Promise<void>>();
  let failure: { readonly error: unknown } | undefined;
  const fail = (error: unknown): void => {
    failure ??= { error };
  };
  const note = (kind: keyof RestoreTotals, lengthBytes: number): void => {
    totals[kind] += lengthBytes;
    onProgress(totals.dataBytes + totals.zeroBytes);
  };
  const copy = async (part: Part, buffer: Uint8Array): Promise<void> => {
    const bytes = buffer.subarray(0, part.lengthBytes);
    await reader.read(part.offsetBytes, bytes, signal);
    await writer.write(part.offsetBytes, bytes, signal);
    note("dataBytes", part.lengthBytes);
  };
  try {
    for await (const part of cutSegments(reader, segmentBytes, signal)) {
      if (failure !== undefined) break;
      if (part.kind === "zero") {
        await writer.zero(part.offsetBytes, part.lengthBytes, signal);
        note("zeroBytes", part.lengthBytes);
        continue;
      }
      const buffer = await buffers.take();
      // Heard of while we waited for it.
      if (failure !== undefined) break;
      const work = copy(part, buffer)
        .catch(fail)
        .finally(() => {
          buffers.give(buffer);
          running.delete(work);
        });
      running.add(work);
    }
  } catch (error) {
    fail(error);
  }
  await Promise.all(running);
  if (failure !== undefined) throw failure.error;
  assert(totals.dataBytes + totals.zeroBytes === reader.sizeBytes, "all of the disk was restored");
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
  segmentBytes: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Part> {
  let open: { kind: Part["kind"]; offsetBytes: number; lengthBytes: number } | undefined;
  for await (const extent of reader.extents(signal)) {
    signal?.throwIfAborted();
    if (open?.kind === extent.kind) open.lengthBytes += extent.lengthBytes;
    else {
      if (open !== undefined && open.lengthBytes > 0) yield open;
      open = { ...extent };
    }
    while (open.kind === "data" && open.lengthBytes >= segmentBytes) {
      const whole: number = segmentBytes - (open.offsetBytes % windowBytes);
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
