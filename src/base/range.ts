/** Checks of byte ranges that callers name. */
import { assert } from "#base/assert.ts";

/** Asserts that the range lies inside a disk of `sizeBytes`. */
export function assertInsideDisk(
  sizeBytes: number,
  offsetBytes: number,
  lengthBytes: number,
): void {
  assert(Number.isSafeInteger(offsetBytes) && offsetBytes >= 0, "the offset is a natural number");
  assert(Number.isSafeInteger(lengthBytes) && lengthBytes >= 0, "the length is a natural number");
  assert(offsetBytes + lengthBytes <= sizeBytes, "the range lies inside the disk");
}
