/** Checks of arguments and the errors that all store drivers share; internal to this folder. */
import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { ByteRange } from "#ports/object-store.ts";

/** Most bytes of one object. */
export const objectBytesMax = 64 * 1024 * 1024;

/** Total length of `parts`, which is within the limit. */
export function measureParts(parts: readonly Uint8Array[]): number {
  let sizeBytes = 0;
  for (const part of parts) sizeBytes += part.byteLength;
  assert(sizeBytes <= objectBytesMax, "an object has at most 64 MiB");
  return sizeBytes;
}

/** Asserts that `range` could be one of some object. */
export function assertRange(range: ByteRange): void {
  const { offsetBytes, lengthBytes } = range;
  assert(Number.isSafeInteger(offsetBytes) && offsetBytes >= 0, "a range has an offset");
  assert(Number.isSafeInteger(lengthBytes) && lengthBytes >= 0, "a range has a length");
  assert(lengthBytes <= objectBytesMax, "a range has at most 64 MiB");
}

/** The error for an object that is not there. */
export function objectNotFound(name: string): KluisError {
  return new KluisError("ObjectNotFound", `Cannot read object "${name}": it is not in the store`, {
    details: { object: name },
  });
}

/** The error for a range that reaches past the object's end: it is shorter than its index says. */
export function rangePastEnd(name: string, range: ByteRange, sizeBytes: number): KluisError {
  const end = range.offsetBytes + range.lengthBytes;
  return new KluisError(
    "ObjectCorrupt",
    `Cannot read object "${name}": it has ${sizeBytes} bytes, ${end} are needed`,
    { details: { object: name } },
  );
}
