/** Numbers out of several runs. */
import { present } from "#base/assert.ts";

/** The middle one, or the mean of the two in the middle; `values` is not empty. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const low = present(sorted[Math.floor(middle)], "there is a value");
  const high = present(sorted[Math.ceil(middle)], "there is a value");
  return (low + high) / 2;
}

/** The mean; `values` is not empty. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
