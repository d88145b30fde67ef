/** Deletes recovery points by a retention rule. */
import {
  type DatedPoint,
  planRetention,
  type RetentionChoice,
  type RetentionRules,
} from "./retention.ts";
import { forEachBounded } from "#base/for-each-bounded.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { pointTimeMs } from "#vault/recovery-point.ts";
import type { PointName, Vault } from "#vault/vault.ts";
import { clockSkewMaxMs } from "./point-order.ts";

/** Points that are deleted at once. */
const deletionsInFlight = 16;

/** A point as a listing of names has it. */
export interface PrunedPoint extends PointName, DatedPoint {}

/** What a pruning does with the points of one item. */
export interface ItemPruning {
  readonly itemId: string;
  readonly itemName: string;
  readonly choices: readonly RetentionChoice<PrunedPoint>[];
}

/**
 * Plans what becomes of every point of one item or of all. Reads names alone, one manifest for each
 * item, and those of points that are named for the future. ArgumentInvalid (after-change) where no rule is given, or where a point is dated in the future: a
 * host whose clock was wrong has made it, and what is newest would go in its stead; errors of `readPoint`.
 */
export async function planPruning(
  vault: Vault,
  rules: RetentionRules,
  options: { readonly nowMs: number; readonly itemId?: string; readonly signal?: AbortSignal },
): Promise<readonly ItemPruning[]> {
  const byItem = new Map<string, PrunedPoint[]>();
  for (const name of await vault.listPoints(options.itemId, options.signal)) {
    const points = byItem.get(name.item) ?? [];
    points.push({ ...name, takenAtMs: await readTime(vault, name, options) });
    byItem.set(name.item, points);
  }
  const items: ItemPruning[] = [];
  for (const points of byItem.values()) {
    const choices = planRetention(points, rules);
    const [newest] = choices;
    if (newest === undefined) continue;
    const { itemId, itemName } = await vault.readPoint(newest.point, options.signal);
    const future = points.find(({ takenAtMs }) => takenAtMs > options.nowMs + clockSkewMaxMs);
    if (future !== undefined) throw inFuture(itemId, future);
    items.push({ itemId, itemName, choices });
  }
  return items;
}

/**
 * The time in the id. Where that is in the future the manifest is asked: a point is ordered after the newest one
 * before it, also where that was dated wrongly, and keeps its own time.
 */
async function readTime(
  vault: Vault,
  name: PointName,
  { nowMs, signal }: { readonly nowMs: number; readonly signal?: AbortSignal },
): Promise<number> {
  const timeMs = pointTimeMs(name.pointId);
  if (timeMs <= nowMs + clockSkewMaxMs) return timeMs;
  return (await vault.readPoint(name, signal)).takenAtMs;
}

/**
 * Deletes every point that no rule keeps; one that somebody else has deleted meanwhile is gone as well.
 * Where it fails, some of them are deleted; points that are locked stay, all others go, and then it
 * ends with ObjectLocked (after-change).
 */
export async function applyPruning(
  vault: Vault,
  items: readonly ItemPruning[],
  signal?: AbortSignal,
): Promise<void> {
  const refused: { readonly pointId: string; readonly error: KluisError }[] = [];
  const unkept = items.flatMap(({ choices }) =>
    choices.filter(({ keptBy }) => keptBy.length === 0),
  );
  await forEachBounded(unkept, deletionsInFlight, async ({ point }) => {
    try {
      await deleteUnlessGone(vault, point, signal);
    } catch (error) {
      if (!isKluisError(error, "ObjectLocked")) throw error;
      refused.push({ pointId: point.pointId, error });
    }
  });
  const [first] = refused;
  if (first === undefined) return;
  if (refused.length === 1) throw first.error;
  throw new KluisError(
    "ObjectLocked",
    `Cannot delete ${refused.length} recovery points, all others are deleted: ${first.error.message}`,
    { cause: first.error },
  );
}

async function deleteUnlessGone(
  vault: Vault,
  point: PointName,
  signal: AbortSignal | undefined,
): Promise<void> {
  try {
    await vault.deletePoint(point, signal);
  } catch (error) {
    if (!isKluisError(error, "RecoveryPointNotFound")) throw error;
  }
}

function inFuture(itemId: string, { pointId, takenAtMs }: PrunedPoint): KluisError {
  const taken = new Date(takenAtMs).toISOString();
  const reason = `recovery point "${pointId}" of ${JSON.stringify(itemId)} is dated ${taken}, in the future`;
  return new KluisError("ArgumentInvalid", `Cannot prune: ${reason}; delete it or set the clock`);
}
