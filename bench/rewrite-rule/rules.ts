/** Rules that were compared; docs/adr/0005-rewrite-rule.md. */
import { leafWindows, windowPages } from "#formats/geometry.ts";
import { RewriteSweep, type SweepState } from "#vault/map/rewrite-rule.ts";
import { leafPages, type DiskModel } from "./disk-model.ts";

/** The windows that an increment with these changed pages stores whole, ascending. */
export type Rule = (disk: DiskModel, changed: readonly number[]) => readonly number[];

/** A rule by its name in the tables; made anew for each run. */
export interface NamedRule {
  readonly name: string;
  readonly create: () => Rule;
}

/** Changed pages of each window that has any. */
function countByWindow(changed: readonly number[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const page of changed) {
    const window = Math.floor(page / windowPages);
    counts.set(window, (counts.get(window) ?? 0) + 1);
  }
  return counts;
}

/** Nothing is rewritten. */
export const noRule: NamedRule = { name: "none", create: () => () => [] };

/** Each changed window of more than so many pieces. */
export function fixedRule(piecesMax: number): NamedRule {
  const rule: Rule = (disk, changed) =>
    [...countByWindow(changed).keys()].filter((window) => disk.piecesOf(window) > piecesMax);
  return { name: `window > ${piecesMax}`, create: () => rule };
}

/** Changed windows of more than 8 pieces, those first that have most, within a share. */
export function budgetRule(share: number): NamedRule {
  const rule: Rule = (disk, changed) => {
    const candidates = [...countByWindow(changed)]
      .map(([window, pages]) => ({
        window,
        cost: windowPages - pages,
        pieces: disk.piecesOf(window),
      }))
      .filter((candidate) => candidate.pieces > 8)
      .sort((a, b) => b.pieces / b.cost - a.pieces / a.cost);
    let budget = share * changed.length;
    const chosen: number[] = [];
    for (const { window, cost } of candidates) {
      if (cost > budget) break;
      budget -= cost;
      chosen.push(window);
    }
    return chosen.sort((a, b) => a - b);
  };
  return { name: `worst ${share}`, create: () => rule };
}

/** The product's rule, with other figures. */
export function sweepRule(share: number, piecesPerWindow: number): NamedRule {
  const create = (): Rule => {
    let state: SweepState | undefined;
    return (disk, changed) => {
      const piecesMin = piecesPerWindow * leafWindows;
      const sweep = new RewriteSweep({ changedPages: changed.length, state, share, piecesMin });
      const counts = countByWindow(changed);
      const chosen: number[] = [];
      for (const index of new Set(changed.map((page) => Math.floor(page / leafPages)))) {
        if (!sweep.isWanted(index)) continue;
        const changedPages = Array.from(
          { length: leafWindows },
          (_, at) => counts.get(index * leafWindows + at) ?? 0,
        );
        chosen.push(...sweep.planLeaf({ index, leaf: disk.leafAt(index), changedPages }));
      }
      ({ state } = sweep);
      return chosen;
    };
  };
  return { name: `sweep ${share} / ${piecesPerWindow}`, create };
}
