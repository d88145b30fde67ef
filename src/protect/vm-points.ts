/** Recovery points of a VM with their tiers: a snapshot on this host, a manifest in a vault, or both. */
import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { Consistency, Hypervisor, VmSnapshot } from "#ports/hypervisor.ts";
import { checkPointId, type RecoveryPoint } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import { dayMs } from "#protect/plan-expiry.ts";
import type { RestorableDisk } from "#protect/plan-restore.ts";
import { listRecoveryPoints, type UnreadablePoint } from "#protect/points.ts";

/** Where a recovery point can be restored from. */
export type PointTier = "snapshot" | "vault";

/** A recovery point, wherever it is. */
export interface TieredPoint {
  readonly pointId: string;
  readonly itemId: string;
  readonly itemName: string;
  readonly takenAtMs: number;
  readonly consistency: Consistency | RecoveryPoint["consistency"];
  readonly consistencyReason?: string;
  readonly frozenMs?: number;
  readonly vmConfiguration?: string;
  readonly disks: readonly RestorableDisk[];
  /** There while the point is restored in minutes. */
  readonly snapshot?: VmSnapshot;
  /** When the days of the snapshot are over. */
  readonly expiresAtMs?: number;
  /** There once the point is in the vault that was asked. */
  readonly manifest?: RecoveryPoint;
}

/** Recovery points of one item, oldest first. */
export interface TieredListing {
  readonly points: readonly TieredPoint[];
  readonly unreadable: readonly UnreadablePoint[];
  /** Whether a vault was asked; without one only snapshots are known. */
  readonly isVaultAsked: boolean;
}

/** Which tiers a point has, the faster first. */
export function tiersOf(point: Pick<TieredPoint, "snapshot" | "manifest">): readonly PointTier[] {
  return [
    ...(point.snapshot === undefined ? [] : (["snapshot"] as const)),
    ...(point.manifest === undefined ? [] : (["vault"] as const)),
  ];
}

/** What to look through: the snapshots of a VM, the points of a vault, or both. */
export interface PointSources {
  readonly itemId: string;
  readonly vm?: { readonly hypervisor: Hypervisor; readonly vmId: string };
  readonly vault?: Vault;
  readonly signal?: AbortSignal;
}

/** Lists the points of an item. A tier is read from what is there. Errors: those of both sources. */
export async function listTieredPoints(sources: PointSources): Promise<TieredListing> {
  const { itemId, vm, vault, signal } = sources;
  const points = new Map<string, TieredPoint>();
  let unreadable: readonly UnreadablePoint[] = [];
  if (vault !== undefined) {
    const listing = await listRecoveryPoints(vault, {
      itemId,
      ...(signal === undefined ? {} : { signal }),
    });
    unreadable = listing.unreadable;
    for (const manifest of listing.points) points.set(manifest.pointId, fromManifest(manifest));
  }
  const snapshots = vm === undefined ? [] : await vm.hypervisor.listSnapshots(vm.vmId, signal);
  for (const snapshot of snapshots) {
    const { label } = snapshot;
    if (label?.itemId !== itemId) continue;
    // Both tell of the same instant.
    points.set(label.pointId, { ...points.get(label.pointId), ...fromSnapshot(snapshot) });
  }
  const sorted = [...points.values()].sort((a, b) => (a.pointId < b.pointId ? -1 : 1));
  return { points: sorted, unreadable, isVaultAsked: vault !== undefined };
}

/**
 * The point of that id, else the newest; with `tier`, of those that are there. RecoveryPointNotFound,
 * ArgumentInvalid (after-change).
 */
export function chooseTieredPoint(
  listing: TieredListing,
  choice: { readonly itemId: string; readonly pointId?: string; readonly tier?: PointTier },
): TieredPoint {
  const { itemId, tier } = choice;
  const pointId = choice.pointId === undefined ? undefined : checkPointId(choice.pointId);
  const there = listing.points.filter(
    (point) => tier === undefined || tiersOf(point).includes(tier),
  );
  const found =
    pointId === undefined ? there.at(-1) : there.find((point) => point.pointId === pointId);
  if (found !== undefined) return found;
  const what = pointId === undefined ? "a recovery point" : `recovery point "${pointId}"`;
  const where = tier === undefined ? "" : ` in tier ${tier}`;
  throw new KluisError("RecoveryPointNotFound", `Cannot find ${what} of "${itemId}"${where}`);
}

function fromManifest(manifest: RecoveryPoint): TieredPoint {
  const { disks, pointId, itemId, itemName, takenAtMs, consistency } = manifest;
  const { consistencyReason, frozenMs, vmConfiguration } = manifest;
  return {
    pointId,
    itemId,
    itemName,
    takenAtMs,
    consistency,
    ...(consistencyReason === undefined ? {} : { consistencyReason }),
    ...(frozenMs === undefined ? {} : { frozenMs }),
    ...(vmConfiguration === undefined ? {} : { vmConfiguration }),
    disks: disks.map(toRestorable),
    manifest,
  };
}

/** A snapshot that carries a label, as the recovery point that it is. */
export function fromSnapshot(snapshot: VmSnapshot): TieredPoint {
  const label = present(snapshot.label, "a recovery point has a label");
  const { consistency, reason, frozenMs } = snapshot.consistency;
  const { pointId, itemId, itemName, vmConfiguration } = label;
  return {
    pointId,
    itemId,
    itemName,
    takenAtMs: snapshot.takenAtMs,
    consistency,
    ...(reason === undefined ? {} : { consistencyReason: reason }),
    ...(frozenMs === undefined ? {} : { frozenMs: Math.round(frozenMs) }),
    vmConfiguration,
    disks: snapshot.disks.map(toRestorable),
    snapshot,
    expiresAtMs: snapshot.takenAtMs + label.days * dayMs,
  };
}

function toRestorable({ name, sizeBytes, isEncrypted }: RestorableDisk): RestorableDisk {
  return { name, sizeBytes, ...(isEncrypted === undefined ? {} : { isEncrypted }) };
}
