/** The bytes of an answer to a read, and the order of a listing; internal to this folder. */
import { KluisError } from "#base/kluis-error.ts";
import type { ByteRange } from "#ports/object-store.ts";
import { objectBytesMax, rangePastEnd } from "../store-arguments.ts";
import { RequestFailure, type BlobRead } from "./blob-service.ts";

/** As services order keys: by their UTF-8 bytes. */
export function isAfter(key: string, last: string): boolean {
  return last === "" || Buffer.compare(Buffer.from(key), Buffer.from(last)) > 0;
}

/** The bytes of an answer, exactly as many as were asked for. Errors: ObjectCorrupt (never), {@link RequestFailure}. */
export async function collect(
  name: string,
  read: BlobRead,
  range: ByteRange | undefined,
): Promise<Uint8Array> {
  const asked = range ?? { offsetBytes: 0, lengthBytes: read.sizeBytes };
  if (range === undefined && read.sizeBytes > objectBytesMax) {
    throw new KluisError(
      "ObjectCorrupt",
      `Cannot read object "${name}": with ${read.sizeBytes} bytes it is larger than any object`,
      { details: { object: name } },
    );
  }
  if (asked.offsetBytes + asked.lengthBytes > read.sizeBytes) {
    throw rangePastEnd(name, asked, read.sizeBytes);
  }
  if (read.offsetBytes !== asked.offsetBytes || read.lengthBytes !== asked.lengthBytes) {
    throw new RequestFailure("unavailable", "the store answered with another range");
  }
  const bytes = new Uint8Array(asked.lengthBytes);
  let doneBytes = 0;
  for await (const chunk of read.chunks) {
    if (doneBytes + chunk.byteLength > bytes.byteLength) {
      throw new RequestFailure("unavailable", "the answer is longer than it said");
    }
    bytes.set(chunk, doneBytes);
    doneBytes += chunk.byteLength;
  }
  if (doneBytes === bytes.byteLength) return bytes;
  throw new RequestFailure("unavailable", "the answer broke off");
}
