/** Opens frames that were fetched together, and checks the ids of the blocks that are needed. */
import { ByteCache } from "#base/byte-cache.ts";
import { toHex } from "#base/bytes.ts";
import { freeBuffer } from "#base/free-buffer.ts";
import { isKluisError, type SerializedError } from "#base/kluis-error.ts";
import { idBytes } from "#formats/geometry.ts";
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
  /** Where each plaintext goes in shared memory; absent where only the check is wanted. */
  readonly target?: { readonly memory: SharedArrayBuffer; readonly atBytes: Uint32Array };
  /** Needed blocks, by ascending frame (its place in the columns above): 24 bytes of id, and places. */
  readonly ids: Uint8Array;
  readonly frames: Uint32Array;
  readonly offsetsBytes: Uint32Array;
  readonly lengthsBytes: Uint32Array;
}

/** What became of them. */
export interface OpenedFrames {
  /** Frames that do not open; their places hold anything. */
  readonly failures: readonly { readonly frame: number; readonly error: SerializedError }[];
  /** Blocks of the others whose content does not hash to their ids, by place in the columns. */
  readonly bad: readonly number[];
}

/** Packs whose keys are kept: deriving one takes longer than opening a small frame. */
const sealsMax = 1024;

/** Opens frames under the keys of one vault. */
export class FrameOpener {
  readonly #keys: VaultKeys;
  /** Each counts as one byte. */
  readonly #seals = new ByteCache<ContainerSeal>(sealsMax);

  constructor(keys: VaultKeys) {
    this.#keys = keys;
  }

  /** Opens them in turn; one that does not open costs the others nothing. */
  open(task: FramesToOpen): OpenedFrames {
    const seal = this.#sealOf(task);
    const failures: { frame: number; error: SerializedError }[] = [];
    const bad: number[] = [];
    let block = 0;
    for (const frame of task.plainBytes.keys()) {
      const first = block;
      while (task.frames[block] === frame) block++;
      try {
        const plain = openOne(task, frame, seal);
        for (let at = first; at < block; at++) {
          if (!isBlock(task, at, plain, this.#keys)) bad.push(at);
        }
        if (task.target === undefined) freeBuffer(plain);
      } catch (error) {
        if (!isKluisError(error)) throw error;
        failures.push({ frame, error: error.toJSON() });
      }
    }
    freeBuffer(new Uint8Array(task.buffer));
    return { failures, bad };
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

/** The plaintext of a frame: in its place, or alone in memory that may be freed. */
function openOne(task: FramesToOpen, frame: number, seal: ContainerSeal): Uint8Array {
  const { packName: objectName, target } = task;
  const sealedBytes = task.sealedBytes[frame] ?? 0;
  const plainBytes = task.plainBytes[frame] ?? 0;
  const start = task.startsBytes[frame] ?? 0;
  const bytes = new Uint8Array(task.buffer).subarray(start, start + sealedBytes);
  const header = parseFetchedHeader(bytes, { sealedBytes, plainBytes }, objectName);
  if (target === undefined) return openFrame(seal, header, bytes, objectName);
  const place = new Uint8Array(target.memory, target.atBytes[frame] ?? 0, plainBytes);
  openFrameInto(seal, header, bytes, { target: place, objectName });
  return place;
}
