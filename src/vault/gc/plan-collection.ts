/** Which packs a collection removes; pure. */
import { KluisError } from "#base/kluis-error.ts";
import {
  breakerBytesMin,
  breakerShare,
  repackShareMin,
  smallPackBytes,
  smallPacksLeft,
  smallPacksMax,
  unusedShareDefault,
} from "#vault/limits.ts";

/** A pack of the store, as marking found it. */
export interface PackUse {
  readonly name: string;
  readonly sizeBytes: number;
  /** Entries that the index names in it; 0 where it names none. */
  readonly entries: number;
  readonly marked: number;
  /** A record of another collection names it. */
  readonly isCondemned: boolean;
}

/** What a collection may do. */
export interface CollectionLimits {
  /** Share of the vault that may stay unused; by default {@link unusedShareDefault}. */
  readonly unusedShare?: number | undefined;
  /** Most bytes that are copied out of packs worth it; by default no bound. */
  readonly repackBytesMax?: number | undefined;
  /** Whether more than {@link breakerShare} of the vault may be freed. */
  readonly allowMassDeletion?: boolean | undefined;
}

/** What a collection will do. */
export interface CollectionPlan {
  readonly packs: readonly PackUse[];
  readonly vaultBytes: number;
  /** Of packs that hold nothing needed. */
  readonly garbageBytes: number;
  /** Of packs from which something is copied first. */
  readonly repackedBytes: number;
  /** Estimate of what is unused in packs that stay. */
  readonly unusedBytesLeft: number;
}

/**
 * Chooses all garbage, and of the packs that are partly unused those with the least to copy, until no
 * more than the allowed share of the vault stays unused or the budget is spent; then small packs, if
 * many stay: so their number, which every backup lists, does not grow with that of recovery points.
 *
 * @param vaultBytes Of all packs, also those that may not be chosen.
 *
 * CollectionRefused (after-change) where more than half of the vault would be freed.
 */
export function planCollection(
  uses: readonly PackUse[],
  limits: CollectionLimits = {},
  vaultBytes = sum(uses, ({ sizeBytes }) => sizeBytes),
): CollectionPlan {
  const chosen = uses.filter((use) => use.marked === 0 || use.isCondemned);
  const rest = uses.filter((use) => use.marked > 0 && !use.isCondemned);
  const partly = rest
    .filter((use) => unusedBytes(use) > use.sizeBytes * repackShareMin)
    .sort((a, b) => a.marked / a.entries - b.marked / b.entries);
  let left = sum(rest, unusedBytes);
  let budget = limits.repackBytesMax ?? Infinity;
  const allowed = (limits.unusedShare ?? unusedShareDefault) * sum(rest, (use) => use.sizeBytes);
  for (const use of partly) {
    const copyBytes = use.sizeBytes - unusedBytes(use);
    if (left <= allowed || copyBytes > budget) break;
    budget -= copyBytes;
    left -= unusedBytes(use);
    chosen.push(use);
  }
  for (const use of smallPacksOf(rest, new Set(chosen))) {
    const copyBytes = use.sizeBytes - unusedBytes(use);
    if (copyBytes > budget) break;
    budget -= copyBytes;
    left -= unusedBytes(use);
    chosen.push(use);
  }
  const freed = sum(chosen, unusedBytes);
  if (limits.allowMassDeletion !== true && freed >= breakerBytesMin) {
    assertModest(freed, vaultBytes);
  }
  return {
    packs: chosen,
    vaultBytes,
    garbageBytes: sum(chosen, (use) => (use.marked === 0 ? use.sizeBytes : 0)),
    repackedBytes: sum(chosen, (use) => (use.marked === 0 ? 0 : use.sizeBytes)),
    unusedBytesLeft: left,
  };
}

/**
 * Small packs that are worth merging, smallest first: those that cost least to copy for each name less.
 * Many at a time, so that each byte is copied a few times at most until it lies in a large pack.
 */
function smallPacksOf(uses: readonly PackUse[], chosen: ReadonlySet<PackUse>): readonly PackUse[] {
  const small = uses.filter((use) => use.sizeBytes < smallPackBytes && !chosen.has(use));
  if (small.length <= smallPacksMax) return [];
  small.sort((a, b) => a.sizeBytes - b.sizeBytes);
  return small.slice(0, small.length - smallPacksLeft);
}

function assertModest(freedBytes: number, vaultBytes: number): void {
  if (freedBytes <= vaultBytes * breakerShare) return;
  throw new KluisError(
    "CollectionRefused",
    `Cannot collect: it would free about ${Math.round(freedBytes)} of ${vaultBytes} bytes of packs`,
    { details: { freedBytes: Math.round(freedBytes), vaultBytes } },
  );
}

/** By entries: blocks of one pack are of a size, about. */
function unusedBytes(use: PackUse): number {
  if (use.entries === 0) return use.sizeBytes;
  return use.sizeBytes * (1 - use.marked / use.entries);
}

function sum(uses: readonly PackUse[], of: (use: PackUse) => number): number {
  return uses.reduce((total, use) => total + of(use), 0);
}
