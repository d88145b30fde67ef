/** Joins the windows that an increment touches with those that the rewrite sweep chooses. */
import { leafWindows, windowPages } from "#formats/geometry.ts";
import type { Leaf } from "#formats/map-node.ts";
import type { RewriteSweep } from "#vault/map/rewrite-rule.ts";
import {
  countChangedPages,
  type PlannedWindow,
  type TouchedWindow,
} from "#vault/writer/segment-plan.ts";

/**
 * Yields every touched window and, of the leaves that they lie in, those to be stored anew.
 *
 * @param readLeaf What the base holds at a leaf; called in ascending order, and only for leaves that
 *   the sweep may choose from.
 */
export async function* planRewrites(
  touched: Iterable<TouchedWindow>,
  sweep: RewriteSweep,
  readLeaf: (leafIndex: number) => Promise<Leaf | undefined>,
): AsyncGenerator<PlannedWindow> {
  for (const group of groupByLeaf(touched)) {
    const chosen = new Set(await chooseWindows(group, sweep, readLeaf));
    const byWindow = new Map(group.windows.map((window) => [window.window, window]));
    const first = group.leaf * leafWindows;
    for (let window = first; window < first + leafWindows; window++) {
      const isRewritten = chosen.has(window);
      const changed = byWindow.get(window);
      if (changed !== undefined) yield { ...changed, isRewritten };
      else if (isRewritten) yield { window, pages: new Uint8Array(windowPages), isRewritten };
    }
  }
}

interface LeafGroup {
  readonly leaf: number;
  readonly windows: TouchedWindow[];
}

async function chooseWindows(
  group: LeafGroup,
  sweep: RewriteSweep,
  readLeaf: (leafIndex: number) => Promise<Leaf | undefined>,
): Promise<readonly number[]> {
  if (!sweep.isWanted(group.leaf)) return [];
  const leaf = await readLeaf(group.leaf);
  const changedPages = new Uint8Array(leafWindows);
  for (const window of group.windows) {
    changedPages[window.window % leafWindows] = countChangedPages(window);
  }
  return sweep.planLeaf({ index: group.leaf, leaf, changedPages });
}

function* groupByLeaf(touched: Iterable<TouchedWindow>): Generator<LeafGroup> {
  let group: LeafGroup | undefined;
  for (const window of touched) {
    const leaf = Math.floor(window.window / leafWindows);
    if (group?.leaf !== leaf) {
      if (group !== undefined) yield group;
      group = { leaf, windows: [] };
    }
    group.windows.push(window);
  }
  if (group !== undefined) yield group;
}
