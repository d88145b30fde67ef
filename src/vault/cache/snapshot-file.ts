/** The snapshot of the index table in a cache folder: one file, proved by a checksum at its end. */
import { closeSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";

import { asBuffer } from "#base/bytes.ts";
import type { SegmentCache } from "./segment-cache.ts";

const fileName = "table";
const bufferBytes = 1024 * 1024;

/** Writes `parts` as the snapshot, in place of the last; false where the cache has no folder. */
export function writeSnapshot(cache: SegmentCache, parts: Iterable<Uint8Array>): Promise<boolean> {
  return cache.writeNamed(fileName, withChecksum(parts));
}

/** Joins small parts to large ones and ends them with the checksum. */
function* withChecksum(parts: Iterable<Uint8Array>): Generator<Uint8Array> {
  let buffer = new Uint8Array(bufferBytes);
  let length = 0;
  let checksum = 0;
  for (const part of parts) {
    for (let done = 0; done < part.length;) {
      const piece = part.subarray(done, done + bufferBytes - length);
      buffer.set(piece, length);
      length += piece.length;
      done += piece.length;
      if (length < bufferBytes) continue;
      checksum = crc32(buffer, checksum);
      yield buffer;
      buffer = new Uint8Array(bufferBytes);
      length = 0;
    }
  }
  const last = buffer.subarray(0, length);
  checksum = crc32(last, checksum);
  yield last;
  const end = new Uint8Array(4);
  asBuffer(end).writeUInt32LE(checksum);
  yield end;
}

/** Thrown by {@link SnapshotReader} where the file ends too early or does not read. */
export class SnapshotUnreadable extends Error {
  override readonly name = "SnapshotUnreadable";
}

/** Reads a snapshot from its start; nothing of it is proved before {@link end}. */
export class SnapshotReader implements Disposable {
  readonly #file: number;
  readonly #buffer = new Uint8Array(bufferBytes);
  #at = 0;
  #length = 0;
  #checksum = 0;

  private constructor(file: number) {
    this.#file = file;
  }

  /** Opens the snapshot of a cache; `undefined` where there is none. */
  static open(cache: SegmentCache): SnapshotReader | undefined {
    if (cache.directory === undefined) return undefined;
    try {
      return new SnapshotReader(openSync(join(cache.directory, fileName), "r"));
    } catch {
      // Absent or not readable is the same: the table is built from the segments.
      return undefined;
    }
  }

  /** Fills `target`. Throws {@link SnapshotUnreadable}. */
  readonly read = (target: Uint8Array): void => {
    for (let done = 0; done < target.length;) {
      if (this.#at === this.#length) this.#fill();
      const piece = this.#buffer.subarray(this.#at, this.#at + target.length - done);
      const length = Math.min(piece.length, this.#length - this.#at);
      target.set(piece.subarray(0, length), done);
      this.#at += length;
      done += length;
    }
  };

  /** Whether all was read and the checksum is right. */
  end(): boolean {
    const expected = crc32(this.#buffer.subarray(0, this.#at), this.#checksum);
    const tail = new Uint8Array(4);
    this.read(tail);
    return asBuffer(tail).readUInt32LE() === expected && this.#at === this.#length && this.#isEnd();
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
  }

  #isEnd(): boolean {
    return readSync(this.#file, this.#buffer, 0, 1, null) === 0;
  }

  #fill(): void {
    this.#checksum = crc32(this.#buffer.subarray(0, this.#length), this.#checksum);
    this.#at = 0;
    try {
      this.#length = readSync(this.#file, this.#buffer, 0, bufferBytes, null);
    } catch (error) {
      throw new SnapshotUnreadable("it cannot be read", { cause: error });
    }
    if (this.#length === 0) throw new SnapshotUnreadable("it ends too early");
  }
}
