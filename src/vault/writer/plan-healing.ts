/**
 * Makes a new point heal what its base lost: windows that rest on packs with a defect are stored
 * again, and a disk whose map is broken is read in full; docs/design/verify-and-heal.md.
 */
import { type BaseHealth, examineBase, type VaultHealth } from "#vault/health/examine.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import { type MapAccess, windowsOf } from "#vault/map/map-source.ts";
import type { DiskInput, PointInput } from "#vault/writer/point-writer.ts";

/** What planning needs of the vault. */
export interface HealingDeps {
  readonly health: VaultHealth;
  readonly access: MapAccess;
  readonly index: BlockIndex;
  readonly signal?: AbortSignal | undefined;
}

/** The input with what heals it. Reads maps only where a pack has a defect. Errors: those of the store. */
export async function planHealing(input: PointInput, deps: HealingDeps): Promise<PointInput> {
  const { defects, lostSegments } = deps.health;
  if (defects.size === 0 && lostSegments === 0) return input;
  const disks: DiskInput[] = [];
  for (const disk of input.disks) {
    const base = disk.increment?.base.disk;
    disks.push(
      base === undefined ? disk : healDisk(disk, await examineBase(base, deps.health, deps)),
    );
  }
  const { basePointId, ...point } = input.point;
  const isIncrement = disks.some(({ increment }) => increment !== undefined);
  const based = isIncrement && basePointId !== undefined ? { basePointId } : {};
  return { point: { ...point, ...based }, disks };
}

function healDisk(disk: DiskInput, health: BaseHealth): DiskInput {
  const { increment, ...rest } = disk;
  if (increment === undefined) return disk;
  if (health.kind === "broken") {
    const trackingReason = `the map of the last recovery point is damaged: ${health.reason}`;
    return { ...rest, tracking: "full", trackingReason };
  }
  const windows = windowsOf(disk.reader.sizeBytes);
  const healing = health.windows.filter((window) => window < windows);
  return healing.length === 0 ? disk : { ...disk, increment: { ...increment, healing } };
}
