/** Recovery points of a vault: listing them, choosing one. */
import { KluisError } from "#base/kluis-error.ts";
import { isUnreadableManifest } from "#vault/open-manifest.ts";
import { checkPointId, type RecoveryPoint } from "#vault/recovery-point.ts";
import type { PointName, Vault } from "#vault/vault.ts";

/** Manifests that are read at once. */
const readsInFlight = 8;

/** A point that is there but cannot be read. */
export interface UnreadablePoint extends PointName {
  readonly code: string;
  readonly message: string;
}

/** All recovery points that were asked for. */
export interface PointListing {
  /** By item, oldest first. */
  readonly points: readonly RecoveryPoint[];
  readonly unreadable: readonly UnreadablePoint[];
}

/** Reads the manifests of all points, or of one item's. A damaged one does not hide the others. */
export async function listRecoveryPoints(
  vault: Vault,
  options: { readonly itemId?: string; readonly signal?: AbortSignal } = {},
): Promise<PointListing> {
  const names = await vault.listPoints(options.itemId, options.signal);
  const points: RecoveryPoint[] = [];
  const unreadable: UnreadablePoint[] = [];
  for (let at = 0; at < names.length; at += readsInFlight) {
    const batch = names.slice(at, at + readsInFlight);
    const read = await Promise.all(batch.map((name) => readOne(vault, name, options.signal)));
    for (const result of read) {
      if ("message" in result) unreadable.push(result);
      else points.push(result);
    }
  }
  points.sort((a, b) => compareText(a.itemId, b.itemId) || compareText(a.pointId, b.pointId));
  return { points, unreadable };
}

/** What a user says to name a recovery point: its item, and its id or nothing for the newest. */
export interface PointChoice {
  readonly itemId: string;
  readonly pointId?: string;
}

/** Reads the chosen point. RecoveryPointNotFound, ArgumentInvalid (after-change), ObjectCorrupt. */
export async function readChosenPoint(
  vault: Vault,
  choice: PointChoice,
  signal?: AbortSignal,
): Promise<RecoveryPoint> {
  const { itemId } = choice;
  const names = await vault.listPoints(itemId, signal);
  if (names.length === 0) {
    throw new KluisError(
      "RecoveryPointNotFound",
      `Cannot read a recovery point of "${itemId}": the vault has none of it`,
    );
  }
  const pointId = choice.pointId === undefined ? undefined : checkPointId(choice.pointId);
  const name = pointId === undefined ? names.at(-1) : names.find((n) => n.pointId === pointId);
  if (name !== undefined) return await vault.readPoint(name, signal);
  throw new KluisError(
    "RecoveryPointNotFound",
    `Cannot read recovery point "${pointId ?? ""}": "${itemId}" has none of that id`,
  );
}

async function readOne(
  vault: Vault,
  name: PointName,
  signal: AbortSignal | undefined,
): Promise<RecoveryPoint | UnreadablePoint> {
  try {
    return await vault.readPoint(name, signal);
  } catch (error) {
    if (!isUnreadableManifest(error)) throw error;
    return { ...name, code: error.code, message: error.message };
  }
}

function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
