/**
 * How much of a long suite runs: `npm test` takes a slice, chosen anew by the seed of each run; evidence
 * (KLUIS_WHOLE=1) and long runs (KLUIS_LONG=1) take every case.
 */
import { createSeededRandom, type SeededRandom } from "./seeded-random.ts";

/** Whether every case runs. */
export const takesAll = process.env["KLUIS_LONG"] === "1" || process.env["KLUIS_WHOLE"] === "1";

let random: SeededRandom | undefined;

function below(bound: number): number {
  random ??= createSeededRandom("slice");
  return random.integer(0, bound - 1);
}

/** `count` of the cases, in their order; all of them where every case runs. */
export function sliceOf<T>(cases: readonly T[], count: number): readonly T[] {
  if (takesAll) return cases;
  const left = [...cases.keys()];
  while (left.length > count) left.splice(below(left.length), 1);
  return left.map((at) => cases[at] as T);
}

/** Whether the case at hand is in the slice: one of `every` is, by chance. */
export function isInSlice(every: number): boolean {
  return takesAll || below(every) === 0;
}
