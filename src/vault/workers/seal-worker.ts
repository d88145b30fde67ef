/**
 * The work of one vault worker: hash segments, seal what is wanted of them, open fetched frames.
 * Free of threads, so that tests can call it; `worker-entry.ts` is the thread.
 *
 * A scanned segment stays here, with its buffer, until the vault says what it wants of it.
 */
import { present } from "#base/assert.ts";
import { isZero } from "#base/bytes.ts";
import { freeBuffer } from "#base/free-buffer.ts";
import { toKluisError } from "#base/kluis-error.ts";
import { frameOverheadBytes } from "#formats/container.ts";
import { frameBytesMax, idBytes, windowBytes } from "#formats/geometry.ts";
import { sealOf } from "#vault/container/container-reader.ts";
import { type ContainerSeal, openFrame, sealFrame } from "#vault/container/frame.ts";
import { checksumBytes, computeId, computeName, computeWindowChecksum } from "#vault/hashing.ts";
import { pageFrameBytesMax, segmentBufferBytes } from "#vault/limits.ts";
import { assertReadsBack, type SealedFrame } from "#vault/pack/pack-builder.ts";
import { isPackSound } from "#vault/workers/check-pack.ts";
import type {
  Posted,
  ScanWindowsTask,
  StoreTask,
  WorkerStart,
  WorkerTask,
} from "#vault/workers/messages.ts";
import { FrameOpener } from "#vault/workers/open-frames.ts";
import { type Candidate, scanPages } from "#vault/workers/page-grouping.ts";
import { gatherFrame, type PlannedFrame, planFrames } from "#vault/workers/plan-frames.ts";

interface Segment {
  readonly buffer: ArrayBuffer;
  /** Largest plaintext of its frames. */
  readonly frameBytes: number;
  readonly candidates: readonly (Candidate | undefined)[];
}

/** Handles messages one after the other; see the file's head. */
export class SealWorker {
  readonly #start: WorkerStart;
  readonly #post: (posted: Posted) => void;
  readonly #opener: FrameOpener;
  readonly #segments = new Map<number, Segment>();
  readonly #plain = new Uint8Array(frameBytesMax);
  readonly #sealed = new Uint8Array(segmentBufferBytes + frameBytesMax);

  constructor(start: WorkerStart, post: (posted: Posted) => void) {
    this.#start = start;
    this.#opener = new FrameOpener(start.keys);
    this.#post = post;
  }

  /** Does one task; an error becomes the answer `failed`. */
  handle(task: WorkerTask): void {
    try {
      this.#run(task);
    } catch (error) {
      this.#segments.delete(task.task);
      const answer = {
        kind: "failed",
        task: task.task,
        error: toKluisError(error).toJSON(),
      } as const;
      this.#post({ answer, transfer: [] });
    }
  }

  #run(task: WorkerTask): void {
    switch (task.kind) {
      case "scan-windows":
        this.#scanWindows(task);
        break;
      case "scan-pages": {
        const { scan, candidates } = scanPages(task, this.#start.keys);
        const { buffer } = task;
        this.#segments.set(task.task, { buffer, candidates, frameBytes: pageFrameBytesMax });
        this.#post({ answer: scan, transfer: [] });
        break;
      }
      case "store":
        this.#store(task);
        break;
      case "release":
        this.#giveBack(task.task, this.#takeSegment(task.task).buffer, []);
        break;
      case "open-frames": {
        const opened = this.#opener.open(task);
        this.#post({ answer: { kind: "frames-opened", task: task.task, ...opened }, transfer: [] });
        break;
      }
      case "check-pack": {
        const isSound = isPackSound(task, this.#start.keys);
        this.#post({ answer: { kind: "pack-checked", task: task.task, isSound }, transfer: [] });
        break;
      }
      case "name": {
        const name = computeName(task.bytes);
        this.#post({ answer: { kind: "named", task: task.task, name }, transfer: [] });
        break;
      }
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
    this.#segments.set(task.task, { buffer: task.buffer, candidates, frameBytes: frameBytesMax });
    this.#post({
      answer: { kind: "windows-scanned", task: task.task, zero, ids, checksums },
      transfer: [],
    });
  }

  #store(task: StoreTask): void {
    const { buffer, candidates, frameBytes } = this.#takeSegment(task.task);
    const wanted = candidates.filter(
      (candidate, at): candidate is Candidate => candidate !== undefined && task.wanted[at] === 1,
    );
    const seal = sealOf(this.#start.keys, { type: "pack", ...task.ticket });
    const frames: SealedFrame[] = [];
    let length = 0;
    for (const planned of planFrames(buffer, wanted, frameBytes)) {
      const plain = gatherFrame(buffer, planned, this.#plain);
      const frame = task.ticket.firstFrame + frames.length;
      const sealed = this.#seal(seal, plain, planned, { frame, at: length });
      frames.push(sealed);
      length += sealed.sealedBytes;
    }
    new Uint8Array(buffer).set(this.#sealed.subarray(0, length));
    this.#giveBack(task.task, buffer, frames);
  }

  #seal(
    seal: ContainerSeal,
    plain: Uint8Array,
    planned: PlannedFrame,
    place: { readonly frame: number; readonly at: number },
  ): SealedFrame {
    const { compress, blocks } = planned;
    const { at } = place;
    const target = this.#sealed;
    const options = { frame: place.frame, kind: "content", compress } as const;
    const header = sealFrame(seal, plain, options, { target, at });
    const sealedBytes = header.sealedBytes + frameOverheadBytes;
    if (this.#start.verify) {
      const opened = openFrame(seal, header, target.subarray(at, at + sealedBytes), "a new pack");
      assertReadsBack(opened, blocks, this.#start.keys.blockIdKey);
      freeBuffer(opened);
    }
    return { sealedBytes, plainBytes: header.plainBytes, codec: header.codec, blocks };
  }

  #takeSegment(task: number): Segment {
    const segment = present(this.#segments.get(task), "a scan came before");
    this.#segments.delete(task);
    return segment;
  }

  #giveBack(task: number, buffer: ArrayBuffer, frames: readonly SealedFrame[]): void {
    this.#post({ answer: { kind: "stored", task, buffer, frames }, transfer: [buffer] });
  }
}
