/** Which recovery points a retention rule keeps; pure. */
import { KluisError } from "#base/kluis-error.ts";

/** How many points to keep; each rule keeps the newest point of so many periods that have one. */
export interface RetentionRules {
  readonly last?: number | undefined;
  readonly daily?: number | undefined;
  readonly weekly?: number | undefined;
  readonly monthly?: number | undefined;
  readonly yearly?: number | undefined;
}

/** A point and the instant that it holds. */
export interface DatedPoint {
  readonly pointId: string;
  readonly takenAtMs: number;
}

/** What becomes of one point. */
export interface RetentionChoice<Point extends DatedPoint> {
  readonly point: Point;
  /** Rules that keep it; none: it goes. */
  readonly keptBy: readonly (keyof RetentionRules | "newest")[];
}

const dayMs = 24 * 60 * 60 * 1000;
/** 1970-01-05 was a Monday. */
const firstMondayMs = 4 * dayMs;

const periods: Readonly<Record<keyof RetentionRules, (point: DatedPoint) => string>> = {
  last: ({ pointId }) => pointId,
  daily: ({ takenAtMs }) => new Date(takenAtMs).toISOString().slice(0, 10),
  weekly: ({ takenAtMs }) => String(Math.floor((takenAtMs - firstMondayMs) / (7 * dayMs))),
  monthly: ({ takenAtMs }) => new Date(takenAtMs).toISOString().slice(0, 7),
  yearly: ({ takenAtMs }) => new Date(takenAtMs).toISOString().slice(0, 4),
};

/**
 * What becomes of the points of one item, newest first in the order of their ids. Days, weeks (from Monday), months and years are
 * those of UTC. The newest point is kept whatever the rules say: the next backup builds on it.
 *
 * ArgumentInvalid (after-change) where no rule is given: that would delete all.
 */
export function planRetention<Point extends DatedPoint>(
  points: readonly Point[],
  rules: RetentionRules,
): readonly RetentionChoice<Point>[] {
  const given = Object.entries(periods).flatMap(([name, periodOf]) => {
    const rule = name as keyof RetentionRules;
    const count = rules[rule] ?? 0;
    return count > 0 ? [{ rule, count, periodOf, seen: new Set<string>() }] : [];
  });
  if (given.length === 0) {
    throw new KluisError("ArgumentInvalid", "Cannot prune: no rule says what to keep");
  }
  // Ids are in the order in which points were made, also where a clock was wrong.
  const ordered = points.toSorted((a, b) => compareText(b.pointId, a.pointId));
  return ordered.map((point, at) => {
    const keptBy: (keyof RetentionRules | "newest")[] = at === 0 ? ["newest"] : [];
    for (const { rule, count, periodOf, seen } of given) {
      const period = periodOf(point);
      if (seen.size >= count || seen.has(period)) continue;
      seen.add(period);
      keptBy.push(rule);
    }
    return { point, keptBy };
  });
}

function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
