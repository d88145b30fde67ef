/** Deletes recovery points by a retention rule. */
import {
  type DatedPoint,
  planRetention,
  type RetentionChoice,
  type RetentionRules,
} from "./retention.ts";
import { pointTimeMs } from "#vault/recovery-point.ts";
import type { PointName, Vault } from "#vault/vault.ts";

/** A point as a listing of names has it. */
export interface PrunedPoint extends PointName, DatedPoint {}

/** What a pruning does with the points of one item. */
export interface ItemPruning {
  readonly itemId: string;
  readonly itemName: string;
  readonly choices: readonly RetentionChoice<PrunedPoint>[];
}

/**
 * Plans what becomes of every point of one item or of all. Reads names alone, and one manifest for each
 * item. ArgumentInvalid (after-change) where no rule is given; errors of `readPoint`.
 */
export async function planPruning(
  vault: Vault,
  rules: RetentionRules,
  options: { readonly itemId?: string; readonly signal?: AbortSignal } = {},
): Promise<readonly ItemPruning[]> {
  const byItem = new Map<string, PrunedPoint[]>();
  for (const name of await vault.listPoints(options.itemId, options.signal)) {
    const points = byItem.get(name.item) ?? [];
    points.push({ ...name, takenAtMs: pointTimeMs(name.pointId) });
    byItem.set(name.item, points);
  }
  const items: ItemPruning[] = [];
  for (const points of byItem.values()) {
    const choices = planRetention(points, rules);
    const [newest] = choices;
    if (newest === undefined) continue;
    const { itemId, itemName } = await vault.readPoint(newest.point, options.signal);
    items.push({ itemId, itemName, choices });
  }
  return items;
}

/** Deletes every point that no rule keeps. Where it fails, those before are deleted. */
export async function applyPruning(
  vault: Vault,
  items: readonly ItemPruning[],
  signal?: AbortSignal,
): Promise<void> {
  for (const { choices } of items) {
    for (const { point, keptBy } of choices) {
      if (keptBy.length === 0) await vault.deletePoint(point, signal);
    }
  }
}
