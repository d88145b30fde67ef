/** Figures of a long benchmark that several evidences share. */
import { readFreshFigures } from "../../bench/figures.ts";
import type { EvidenceContext } from "./evidence.ts";

/** How old figures may be that several evidences share. */
export const sharedMsMax = 60 * 60_000;

/** The figures of that name, of the very same files on this machine in the last hour, or measured now. */
export async function readOrMeasure<T>(
  name: string,
  context: EvidenceContext,
  measure: () => Promise<{ readonly figures: T }>,
): Promise<T> {
  const kept = await readFreshFigures<T>(name, sharedMsMax, context.signal);
  if (kept === undefined) return (await measure()).figures;
  const minutes = Math.round((Date.now() - kept.stamp.measuredAtMs) / 60_000);
  context.log(`figures of ${minutes} minutes ago, of the same files on this machine`);
  return kept.figures;
}
