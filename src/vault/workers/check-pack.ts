/** Checks a whole pack: its name, every frame, every block. */
import { freeBuffer } from "#base/free-buffer.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { containerHeaderBytes } from "#formats/container.ts";
import { idBytes } from "#formats/geometry.ts";
import { openFetchedFrame, sealOf } from "#vault/container/container-reader.ts";
import { computeId, computeName } from "#vault/hashing.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";

/** A pack as it was read, and what the index says of it. */
export interface PackToCheck {
  readonly type: "pack" | "mapPack";
  /** The whole object, alone in its buffer; it is freed. */
  readonly buffer: ArrayBuffer;
  /** In the store. */
  readonly packName: string;
  /** SHA-256 that the object should have. */
  readonly sha256: Uint8Array;
  readonly epoch: number;
  readonly salt: Uint8Array;
  /** Of each frame. */
  readonly sealedBytes: Uint32Array;
  readonly plainBytes: Uint32Array;
  /** Blocks or nodes, by ascending frame: 24 bytes of id, and their places. */
  readonly ids: Uint8Array;
  readonly frames: Uint32Array;
  readonly offsetsBytes: Uint32Array;
  readonly lengthsBytes: Uint32Array;
}

/** Whether all of it is as it was written; what is wrong where it is not is for others to find. */
export function isPackSound(pack: PackToCheck, keys: VaultKeys): boolean {
  const bytes = new Uint8Array(pack.buffer);
  try {
    return Buffer.compare(computeName(bytes), pack.sha256) === 0 && areFramesSound(pack, keys);
  } catch (error) {
    if (isKluisError(error)) return false;
    throw error;
  } finally {
    freeBuffer(bytes);
  }
}

function areFramesSound(pack: PackToCheck, keys: VaultKeys): boolean {
  const seal = sealOf(keys, pack);
  const idKey = pack.type === "pack" ? keys.blockIdKey : keys.nodeIdKey;
  let start = containerHeaderBytes;
  let block = 0;
  for (const [frame, sealedBytes] of pack.sealedBytes.entries()) {
    const end = start + sealedBytes;
    if (end > pack.buffer.byteLength) return false;
    const expected = { sealedBytes, plainBytes: pack.plainBytes[frame] ?? 0 };
    const sealed = new Uint8Array(pack.buffer, start, sealedBytes);
    const plain = openFetchedFrame(seal, sealed, expected, pack.packName);
    for (; pack.frames[block] === frame; block++) {
      const offset = pack.offsetsBytes[block] ?? 0;
      const content = plain.subarray(offset, offset + (pack.lengthsBytes[block] ?? 0));
      if (content.byteLength !== pack.lengthsBytes[block]) return false;
      const id = pack.ids.subarray(block * idBytes, (block + 1) * idBytes);
      if (Buffer.compare(computeId(idKey, content), id) !== 0) return false;
    }
    freeBuffer(plain);
    start = end;
  }
  // A block of a frame that is not there was not looked at.
  return block === pack.frames.length;
}
