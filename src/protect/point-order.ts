/** Keeps the recovery points of an item in the order in which they were made, whatever the host's clock says. */
import type { RandomSource } from "#base/random.ts";
import { newPointId, pointTimeMs } from "#vault/recovery-point.ts";

/** How far the clocks of hosts may be apart before somebody is asked to look. */
export const clockSkewMaxMs = 24 * 60 * 60 * 1000;

/** The id of a new point, and what to tell people about its time. */
export interface OrderedPointId {
  readonly pointId: string;
  readonly warnings: readonly string[];
}

/**
 * An id that sorts after `newest`, the newest point of the item: with the time `takenAtMs` where that is later,
 * else with one just after it. What is built next must be built on this point, whatever clock was wrong.
 */
export function orderPointId(
  takenAtMs: number,
  newest: string | undefined,
  random: RandomSource,
): OrderedPointId {
  const newestMs = newest === undefined ? -1 : pointTimeMs(newest);
  if (newest === undefined || takenAtMs > newestMs) {
    return { pointId: newPointId(takenAtMs, random), warnings: [] };
  }
  const pointId = newPointId(newestMs + 1, random);
  if (takenAtMs === newestMs) return { pointId, warnings: [] };
  const far = newestMs - takenAtMs > clockSkewMaxMs;
  const advice = `set the clock${far ? ", or delete that point if it is dated in the future" : ""}`;
  const warning =
    `the clock of this host says ${toText(takenAtMs)}, and recovery point ${newest}, the newest before this one, ` +
    `is dated ${toText(newestMs)}: this one is ordered after it; ${advice}`;
  return { pointId, warnings: [warning] };
}

function toText(timeMs: number): string {
  return new Date(timeMs).toISOString();
}
