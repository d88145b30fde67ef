/** The content of a put on its way out; internal to this folder. */
import { createHash } from "node:crypto";
import { Readable } from "node:stream";

import { concatBytes } from "#base/bytes.ts";

/** Bytes that are copied and handed to the socket at once. */
export const pieceBytesMax = 1024 * 1024;

/** Content that may be sent several times. */
export class UploadBody {
  readonly sizeBytes: number;
  readonly #parts: readonly Uint8Array[];
  readonly #digests = new Map<string, Buffer>();
  #isOpen = true;

  /** @param parts In order; they must not change until {@link close}. */
  constructor(parts: readonly Uint8Array[]) {
    this.#parts = parts.filter((part) => part.byteLength > 0);
    this.sizeBytes = this.#parts.reduce((sum, part) => sum + part.byteLength, 0);
  }

  /** Digest of the content, computed once. */
  digest(algorithm: "sha256" | "md5"): Buffer {
    const known = this.#digests.get(algorithm);
    if (known !== undefined) return known;
    const hash = createHash(algorithm);
    for (const part of this.#parts) hash.update(part);
    const digest = hash.digest();
    this.#digests.set(algorithm, digest);
    return digest;
  }

  /**
   * The content as a new stream of copies, so that a request which outlives its call holds nothing
   * of the caller's.
   */
  open(onProgress: () => void): Readable {
    const options = { objectMode: false, highWaterMark: 1 };
    const stream = Readable.from(this.#pieces(onProgress), options);
    // A request that is still sending when its call has ended gets an error that nobody waits for.
    stream.on("error", () => undefined);
    return stream;
  }

  /** Ends every stream that is still open with an error: the parts are the caller's again. */
  close(): void {
    this.#isOpen = false;
  }

  *#pieces(onProgress: () => void): Generator<Uint8Array> {
    let gathered: Uint8Array[] = [];
    let gatheredBytes = 0;
    for (const part of this.#parts) {
      for (let at = 0; at < part.byteLength;) {
        const end = Math.min(part.byteLength, at + pieceBytesMax - gatheredBytes);
        gathered.push(part.subarray(at, end));
        gatheredBytes += end - at;
        at = end;
        if (gatheredBytes < pieceBytesMax) continue;
        yield this.#copy(gathered, onProgress);
        gathered = [];
        gatheredBytes = 0;
      }
    }
    if (gatheredBytes > 0) yield this.#copy(gathered, onProgress);
  }

  #copy(gathered: readonly Uint8Array[], onProgress: () => void): Uint8Array {
    if (!this.#isOpen) throw new Error("the call that sent this has ended");
    onProgress();
    return concatBytes(gathered);
  }
}
