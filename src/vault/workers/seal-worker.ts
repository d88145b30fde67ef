/**
 * The work of one vault worker: hash segments, seal what is wanted into its own open pack, open
 * fetched frames. Pure of threads, so that tests can call it; `worker-entry.ts` is the thread.
 *
 * A worker has at most one open pack. A scanned segment stays here, with its buffer, until the
 * vault says which of its candidates it wants; where no buffer for a pack is at hand the answer
 * waits for one.
 */
import { present } from "#base/assert.ts";
import { isZero } from "#base/bytes.ts";
import { toKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { frameBytesMax, idBytes, windowBytes } from "#formats/geometry.ts";
import { openFetchedFrame, sealOf } from "#vault/container/container-reader.ts";
import { isCompressible } from "#vault/container/frame.ts";
import { checksumBytes, computeId, computeWindowChecksum } from "#vault/hashing.ts";
import { type FrameBlock, PackBuilder } from "#vault/pack/pack-builder.ts";
import type {
  OpenFrameTask,
  PackBufferGrant,
  Posted,
  ScanWindowsTask,
  StoreTask,
  WorkerStart,
  WorkerTask,
} from "#vault/workers/messages.ts";
import { type Candidate, scanPages } from "#vault/workers/page-grouping.ts";

interface Segment {
  readonly buffer: ArrayBuffer;
  readonly candidates: readonly (Candidate | undefined)[];
}

/** Handles messages one after the other; see the file's head. */
export class SealWorker {
  readonly #start: WorkerStart;
  readonly #post: (posted: Posted) => void;
  readonly #segments = new Map<number, Segment>();
  readonly #freeBuffers: ArrayBuffer[] = [];
  readonly #waiting: (() => void)[] = [];
  readonly #scratch = new Uint8Array(frameBytesMax);
  #pack: { readonly builder: PackBuilder; readonly buffer: ArrayBuffer } | undefined;

  constructor(start: WorkerStart, post: (posted: Posted) => void) {
    this.#start = start;
    this.#post = post;
  }

  /** Does one task; an error becomes the answer `failed`. */
  handle(task: WorkerTask): void {
    if (task.kind === "pack-buffer") {
      this.#grant(task);
      return;
    }
    try {
      this.#run(task);
    } catch (error) {
      this.#fail(task.task, error);
    }
  }

  #run(task: Exclude<WorkerTask, PackBufferGrant>): void {
    switch (task.kind) {
      case "scan-windows":
        this.#scanWindows(task);
        break;
      case "scan-pages": {
        const { scan, candidates } = scanPages(task, this.#start.keys);
        this.#segments.set(task.task, { buffer: task.buffer, candidates });
        this.#post({ answer: scan, transfer: [] });
        break;
      }
      case "store":
        this.#store(task, this.#takeSegment(task.task));
        break;
      case "flush":
        this.#afterStores(() => {
          this.#finishPack();
          this.#post({ answer: { kind: "flushed", task: task.task }, transfer: [] });
        });
        break;
      case "open-frame":
        this.#openFrame(task);
        break;
    }
  }

  #scanWindows(task: ScanWindowsTask): void {
    const { blockIdKey, checksumKey } = this.#start.keys;
    const zero = new Uint8Array(task.windows);
    const ids = new Uint8Array(task.ids ? task.windows * idBytes : 0);
    const checksums = new Uint8Array(task.windows * checksumBytes);
    const candidates: (Candidate | undefined)[] = [];
    for (let window = 0; window < task.windows; window++) {
      const offsetBytes = window * windowBytes;
      const content = new Uint8Array(task.buffer, offsetBytes, windowBytes);
      if (isZero(content)) {
        zero[window] = 1;
        candidates.push(undefined);
        continue;
      }
      checksums.set(computeWindowChecksum(checksumKey, content), window * checksumBytes);
      if (!task.ids) continue;
      const id = computeId(blockIdKey, content);
      ids.set(id, window * idBytes);
      candidates.push({ id, offsetBytes, lengthBytes: windowBytes });
    }
    this.#segments.set(task.task, { buffer: task.buffer, candidates });
    this.#post({
      answer: { kind: "windows-scanned", task: task.task, zero, ids, checksums },
      transfer: [],
    });
  }

  #takeSegment(task: number): Segment {
    const segment = present(this.#segments.get(task), "a store follows a scan");
    this.#segments.delete(task);
    return segment;
  }

  #store(task: StoreTask, segment: Segment): void {
    const wanted = segment.candidates.filter(
      (candidate, at): candidate is Candidate => candidate !== undefined && task.wanted[at] === 1,
    );
    const frames = planFrames(segment.buffer, wanted);
    let sealedBytes = 0;
    const storeFrom = (at: number): void => {
      try {
        for (let next = at; next < frames.length; next++) {
          if (!this.#hasPack()) {
            this.#waiting.push(() => storeFrom(next));
            return;
          }
          sealedBytes += this.#seal(segment.buffer, present(frames[next], "a frame was planned"));
        }
      } catch (error) {
        this.#fail(task.task, error);
        return;
      }
      this.#post({
        answer: { kind: "stored", task: task.task, buffer: segment.buffer, sealedBytes },
        transfer: [segment.buffer],
      });
    };
    this.#afterStores(() => storeFrom(0));
  }

  /** Runs `work` now, or behind the stores that wait for a buffer. */
  #afterStores(work: () => void): void {
    if (this.#waiting.length === 0) work();
    else this.#waiting.push(work);
  }

  #grant(grant: PackBufferGrant): void {
    this.#freeBuffers.push(grant.buffer);
    const waiting = this.#waiting.splice(0);
    for (const work of waiting) this.#afterStores(work);
  }

  #hasPack(): boolean {
    if (this.#pack !== undefined) return true;
    const buffer = this.#freeBuffers.pop();
    if (buffer === undefined) return false;
    const { keys, verify } = this.#start;
    const options = { type: "pack", keys, random: systemRandom, verify, buffer } as const;
    this.#pack = { buffer, builder: new PackBuilder(options) };
    return true;
  }

  #seal(buffer: ArrayBuffer, frame: PlannedFrame): number {
    const { builder } = present(this.#pack, "a pack is open");
    const plain = gather(buffer, frame, this.#scratch);
    const sealedBytes = builder.add(plain, frame.blocks, { compress: frame.compress });
    if (builder.isFull) this.#finishPack();
    return sealedBytes;
  }

  #finishPack(): void {
    if (this.#pack === undefined) return;
    const { builder, buffer } = this.#pack;
    this.#pack = undefined;
    const { bytes, table } = builder.finish();
    this.#post({
      answer: { kind: "pack", buffer, lengthBytes: bytes.byteLength, table },
      transfer: [buffer],
    });
  }

  #openFrame(task: OpenFrameTask): void {
    const { keys } = this.#start;
    const seal = sealOf(keys, { type: "pack", epoch: task.epoch, salt: task.salt });
    const plain = openFetchedFrame(seal, new Uint8Array(task.buffer), task, task.packName);
    const bad: number[] = [];
    for (const [at, block] of task.blocks.entries()) {
      const end = block.offsetBytes + block.lengthBytes;
      const id = computeId(keys.blockIdKey, plain.subarray(block.offsetBytes, end));
      if (end > plain.byteLength || Buffer.compare(id, block.id) !== 0) bad.push(at);
    }
    // Small results may lie in a shared pool, which cannot be transferred.
    const owned = plain.byteLength === plain.buffer.byteLength ? plain : new Uint8Array(plain);
    this.#post({
      answer: { kind: "frame-opened", task: task.task, plain: owned, bad },
      transfer: [owned.buffer as ArrayBuffer],
    });
  }

  #fail(task: number, error: unknown): void {
    this.#segments.delete(task);
    this.#post({
      answer: { kind: "failed", task, error: toKluisError(error).toJSON() },
      transfer: [],
    });
  }
}

interface PlannedFrame {
  readonly compress: boolean;
  readonly sources: readonly Candidate[];
  readonly blocks: readonly FrameBlock[];
}

/** Cuts candidates into frames of at most 1 MiB, those worth compressing apart from the others. */
function planFrames(buffer: ArrayBuffer, wanted: readonly Candidate[]): readonly PlannedFrame[] {
  const compressible = wanted.map((candidate) =>
    isCompressible(new Uint8Array(buffer, candidate.offsetBytes, candidate.lengthBytes)),
  );
  const frames: PlannedFrame[] = [];
  for (const compress of [true, false]) {
    let sources: Candidate[] = [];
    let lengthBytes = 0;
    const close = (): void => {
      if (sources.length > 0) frames.push({ compress, sources, blocks: placeBlocks(sources) });
      sources = [];
      lengthBytes = 0;
    };
    for (const [at, candidate] of wanted.entries()) {
      if (compressible[at] !== compress) continue;
      if (lengthBytes + candidate.lengthBytes > frameBytesMax) close();
      sources.push(candidate);
      lengthBytes += candidate.lengthBytes;
    }
    close();
  }
  return frames;
}

function placeBlocks(sources: readonly Candidate[]): readonly FrameBlock[] {
  let offsetBytes = 0;
  return sources.map(({ id, lengthBytes }) => {
    const block = { id, offsetBytes, lengthBytes };
    offsetBytes += lengthBytes;
    return block;
  });
}

/** The frame's plaintext: a view of the segment where it lies together there, else a copy. */
function gather(buffer: ArrayBuffer, frame: PlannedFrame, scratch: Uint8Array): Uint8Array {
  const first = present(frame.sources[0], "a frame has a block");
  let end = first.offsetBytes;
  const together = frame.sources.every((source) => {
    const adjacent = source.offsetBytes === end;
    end = source.offsetBytes + source.lengthBytes;
    return adjacent;
  });
  if (together) return new Uint8Array(buffer, first.offsetBytes, end - first.offsetBytes);
  let at = 0;
  for (const { offsetBytes, lengthBytes } of frame.sources) {
    scratch.set(new Uint8Array(buffer, offsetBytes, lengthBytes), at);
    at += lengthBytes;
  }
  return scratch.subarray(0, at);
}
