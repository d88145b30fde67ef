/**
 * Opens frames that were fetched together, checks the ids of the blocks that are needed, and copies what is
 * wanted of them to where it belongs: by the thread that has just written it, and has it in its cache.
 */
import { ByteCache } from "#base/byte-cache.ts";
import { asBuffer, toHex } from "#base/bytes.ts";
import { freeBuffer } from "#base/free-buffer.ts";
import { isKluisError, type SerializedError } from "#base/kluis-error.ts";
import { frameBytesMax, idBytes } from "#formats/geometry.ts";
import { parseFetchedHeader, sealOf } from "#vault/container/container-reader.ts";
import { type ContainerSeal, openFrame, openFrameInto } from "#vault/container/frame.ts";
import { computeId } from "#vault/hashing.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";

/**
 * Frames of one pack in one buffer. All that is known of them lies in columns, since a message that
 * holds an object for each block takes longer than the frame.
 */
export interface FramesToOpen {
  /** Holds each frame from its header to its tag, and maybe bytes between them; it is freed. */
  readonly buffer: ArrayBuffer;
  /** In the store. */
  readonly packName: string;
  readonly epoch: number;
  readonly salt: Uint8Array;
  /** Of each frame: where it starts in `buffer`. */
  readonly startsBytes: Uint32Array;
  readonly sealedBytes: Uint32Array;
  readonly plainBytes: Uint32Array;
  /** Where each plaintext goes as a whole, or {@link nowhere}; absent where that holds for all. */
  readonly target?: FramePlaces;
  /** What is copied from frames whose blocks are all as their ids say. */
  readonly copies?: FrameCopies;
  /** Needed blocks, by ascending frame (its place in the columns above): 24 bytes of id, and places. */
  readonly ids: Uint8Array;
  readonly frames: Uint32Array;
  readonly offsetsBytes: Uint32Array;
  readonly lengthsBytes: Uint32Array;
}

/** Places of whole frames in shared memory. */
export interface FramePlaces {
  readonly memory: SharedArrayBuffer;
  readonly atBytes: Uint32Array;
}

/** Stands for no place. */
export const nowhere = 0xffff_ffff;

/** Pieces of frames that go to shared memory, by ascending frame. */
export interface FrameCopies {
  readonly memory: SharedArrayBuffer;
  readonly frames: Uint32Array;
  /** In the frame's plaintext. */
  readonly fromBytes: Uint32Array;
  readonly lengthsBytes: Uint32Array;
  /** In `memory`. */
  readonly toBytes: Uint32Array;
}

/** What became of them. */
export interface OpenedFrames {
  /** Frames that do not open; their places hold anything. */
  readonly failures: readonly { readonly frame: number; readonly error: SerializedError }[];
  /** Blocks of the others whose content does not hash to their ids, by place in the columns. */
  readonly bad: readonly number[];
}

/** Copies of one frame: their places in the columns, the second behind the last. */
type CopyRange = readonly [first: number, end: number];

/** Shared memory that a frame is opened in. */
interface Place {
  readonly memory: SharedArrayBuffer;
  readonly atBytes: number;
  /** Whether it is there that the frame's only piece goes. */
  readonly isWanted: boolean;
}

/** A frame's plaintext. */
interface Opened {
  readonly plain: Uint8Array;
  /** Whether it lies alone in memory that may be freed. */
  readonly isOwn: boolean;
}

/** Packs whose keys are kept: deriving one takes longer than opening a small frame. */
const sealsMax = 1024;

/** Opens frames under the keys of one vault. */
export class FrameOpener {
  readonly #keys: VaultKeys;
  /** Each counts as one byte. */
  readonly #seals = new ByteCache<ContainerSeal>(sealsMax);
  /** For what is decompressed and not kept. */
  #scratch: Uint8Array | undefined;

  constructor(keys: VaultKeys) {
    this.#keys = keys;
  }

  /** Opens them in turn; one that does not open costs the others nothing. */
  open(task: FramesToOpen): OpenedFrames {
    const seal = this.#sealOf(task);
    const failures: { frame: number; error: SerializedError }[] = [];
    const bad: number[] = [];
    let block = 0;
    let copy = 0;
    for (const frame of task.plainBytes.keys()) {
      const [firstBlock, firstCopy] = [block, copy];
      while (task.frames[block] === frame) block++;
      while (task.copies?.frames[copy] === frame) copy++;
      try {
        const place = placeOf(task, frame, [firstCopy, copy]);
        const { plain, isOwn } = this.#openOne(task, frame, seal, place);
        const before = bad.length;
        for (let at = firstBlock; at < block; at++) {
          if (!isBlock(task, at, plain, this.#keys)) bad.push(at);
        }
        const isSound = bad.length === before;
        if (isSound && place?.isWanted !== true) copyOut(task, plain, [firstCopy, copy]);
        if (isOwn) freeBuffer(plain);
      } catch (error) {
        if (!isKluisError(error)) throw error;
        failures.push({ frame, error: error.toJSON() });
      }
    }
    freeBuffer(new Uint8Array(task.buffer));
    return { failures, bad };
  }

  /** Opens a frame where it is kept or wanted as a whole, or else in memory of this thread. */
  #openOne(
    task: FramesToOpen,
    frame: number,
    seal: ContainerSeal,
    place: Place | undefined,
  ): Opened {
    const { packName: objectName } = task;
    const sealedBytes = task.sealedBytes[frame] ?? 0;
    const plainBytes = task.plainBytes[frame] ?? 0;
    const start = task.startsBytes[frame] ?? 0;
    const bytes = new Uint8Array(task.buffer).subarray(start, start + sealedBytes);
    const header = parseFetchedHeader(bytes, { sealedBytes, plainBytes }, objectName);
    if (place !== undefined) {
      const plain = new Uint8Array(place.memory, place.atBytes, plainBytes);
      openFrameInto(seal, header, bytes, { target: plain, objectName });
      return { plain, isOwn: false };
    }
    if (header.codec === "stored") {
      return { plain: openFrame(seal, header, bytes, objectName), isOwn: true };
    }
    this.#scratch ??= Buffer.allocUnsafeSlow(frameBytesMax + 1);
    // A byte more than it takes tells whether the frame has an end.
    const target = this.#scratch.subarray(0, plainBytes + 1);
    openFrameInto(seal, header, bytes, { target, objectName });
    return { plain: target.subarray(0, plainBytes), isOwn: false };
  }

  #sealOf({ epoch, salt }: FramesToOpen): ContainerSeal {
    const key = `${epoch}:${toHex(salt)}`;
    const known = this.#seals.get(key);
    if (known !== undefined) return known;
    const seal = sealOf(this.#keys, { type: "pack", epoch, salt });
    this.#seals.set(key, seal, 1);
    return seal;
  }
}

function isBlock(task: FramesToOpen, at: number, plain: Uint8Array, keys: VaultKeys): boolean {
  const offsetBytes = task.offsetsBytes[at] ?? 0;
  const lengthBytes = task.lengthsBytes[at] ?? 0;
  const content = plain.subarray(offsetBytes, offsetBytes + lengthBytes);
  const id = task.ids.subarray(at * idBytes, (at + 1) * idBytes);
  const isWhole = content.byteLength === lengthBytes;
  return isWhole && Buffer.compare(computeId(keys.blockIdKey, content), id) === 0;
}

/** Where the frame is kept, else where all of it goes as one piece. */
function placeOf(
  { plainBytes, target, copies }: FramesToOpen,
  frame: number,
  [first, end]: CopyRange,
): Place | undefined {
  const keptAt = target?.atBytes[frame] ?? nowhere;
  if (target !== undefined && keptAt !== nowhere) {
    return { memory: target.memory, atBytes: keptAt, isWanted: false };
  }
  const isWhole = end === first + 1 && copies?.lengthsBytes[first] === plainBytes[frame];
  if (copies === undefined || !isWhole) return undefined;
  return { memory: copies.memory, atBytes: copies.toBytes[first] ?? 0, isWanted: true };
}

function copyOut({ copies }: FramesToOpen, plain: Uint8Array, [first, end]: CopyRange): void {
  if (copies === undefined) return;
  const source = asBuffer(plain);
  const memory = Buffer.from(copies.memory);
  for (let at = first; at < end; at++) {
    const from = copies.fromBytes[at] ?? 0;
    source.copy(memory, copies.toBytes[at] ?? 0, from, from + (copies.lengthsBytes[at] ?? 0));
  }
}
