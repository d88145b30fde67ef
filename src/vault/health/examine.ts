/**
 * What of a vault's packs cannot be relied on now, and which parts of a disk rest on that;
 * docs/design/verify-and-heal.md.
 */
import { asBuffer, toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { leafWindows } from "#formats/geometry.ts";
import { indexPrefix, indexSegmentName, mapPackName, packName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { listPacks, type PackListing } from "#vault/health/pack-listing.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { LostSegment } from "#vault/index/segment-repairs.ts";
import { readFindings } from "#vault/inventory/findings.ts";
import { readInventory } from "#vault/inventory/inventory.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import type { DiskMap, MapAccess } from "#vault/map/map-source.ts";
import { walkMap } from "#vault/map/walk-map.ts";

/** Why a pack is not relied on. */
export type PackDefect = "absent" | "short" | "damaged";

/** The packs of the index that cannot be relied on. */
export interface PackDefects {
  /** By name in the store. */
  readonly defects: ReadonlyMap<string, PackDefect>;
  /** The same packs, 32 bytes each. */
  readonly packs: readonly Uint8Array[];
  /** Whether this pack, 32 bytes, is one of them. */
  hasDefect(pack: Uint8Array): boolean;
}

/** These, and what of the index itself is missing. */
export interface VaultHealth extends PackDefects {
  /** Index segments that are gone or cannot be read: what they alone name cannot be found. */
  readonly lostSegments: number;
}

/** What an examination needs. */
export interface ExamineDeps {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly index: BlockIndex;
  readonly signal?: AbortSignal | undefined;
  /** Packs that were listed after the segments that the index holds, none of them taken. */
  readonly listing?: PackListing | undefined;
}

/**
 * Compares the index with the packs that the store lists now, or with `listing`, and with what checks
 * have found. The listing is read after the index, so a pack that was collected before is never taken
 * for present, whoever names it. Errors: those of the store: without an answer nothing is known.
 */
export async function examineVault(deps: ExamineDeps): Promise<VaultHealth> {
  const listing = deps.listing ?? (await listPacks(deps.store, deps.signal));
  const defects = await findDefects(deps, listing);
  const lost = await findLostSegments(deps);
  const mayMiss = deps.index.mayMissSegments || listing.untaken > 0;
  const missing = mayMiss ? await countMissingSegments(deps) : 0;
  if (missing === 0) deps.index.mayMissSegments = false;
  return { ...defects, lostSegments: missing + lost.length };
}

/** The part of {@link examineVault} that is about packs; `listing` was made after the index was read. */
export async function findDefects(
  { store, keys, index, signal }: Omit<ExamineDeps, "listing">,
  listing: PackListing,
): Promise<PackDefects> {
  const { damaged } = await readFindings({ store, keys, vaultId: keys.vaultId, signal });
  const defects = new Map<string, PackDefect>();
  const packs = new Map<string, Uint8Array>();
  for await (const { head, contentEndBytes } of index.packExtents()) {
    const sizeBytes = listing.take(head.name);
    const isFound = sizeBytes !== undefined;
    if (isFound && sizeBytes >= contentEndBytes && damaged.size === 0) continue;
    const name = head.type === "pack" ? packName(head.name) : mapPackName(head.name);
    if (!isFound) defects.set(name, "absent");
    else if (sizeBytes < contentEndBytes) defects.set(name, "short");
    else if (damaged.has(name)) defects.set(name, "damaged");
    else continue;
    packs.set(keyOf(head.name), head.name);
  }
  const hasDefect = (pack: Uint8Array): boolean => packs.has(keyOf(pack));
  return { defects, packs: [...packs.values()], hasDefect };
}

/**
 * Segments of the index that cannot be read and that something may rest on: not those that were replaced,
 * and are there for their lock alone. Reads the inventory where there are any. Errors: those of the store.
 */
export async function findLostSegments(
  deps: Pick<ExamineDeps, "store" | "keys" | "index" | "signal">,
): Promise<readonly LostSegment[]> {
  const { store, keys, index, signal } = deps;
  if (index.lost.length === 0) return [];
  const { removed } = await readInventory({ store, keys, vaultId: keys.vaultId, signal });
  return index.lost.filter(({ name }) => !removed.has(indexSegmentName(name)));
}

/**
 * Index segments that the inventory expects, the index does not have and the store does not list. Reading the
 * inventory costs a request for each part, so it is asked where packs are listed that no segment names, and
 * where segments may be gone together with the packs that they name ({@link BlockIndex.mayMissSegments}).
 */
async function countMissingSegments(deps: ExamineDeps): Promise<number> {
  const { store, keys, index, signal } = deps;
  const { expected } = await readInventory({ store, keys, vaultId: keys.vaultId, signal });
  const missing = new Set([...expected.keys()].filter((name) => name.startsWith(indexPrefix)));
  for (const name of index.segmentNames) missing.delete(indexSegmentName(name));
  if (missing.size === 0) return 0;
  for await (const { name } of store.list(indexPrefix, signal)) missing.delete(name);
  // One that was replaced since the inventory was read is looked for once more.
  if (missing.size === 0) return 0;
  const now = await readInventory({ store, keys, vaultId: keys.vaultId, signal });
  return [...missing].filter((name) => now.expected.has(name)).length;
}

/** What a base can still be used for. */
export type BaseHealth =
  /** Its map can be read; these windows, ascending, rest on blocks that cannot be relied on. */
  | { readonly kind: "usable"; readonly windows: readonly number[] }
  /** A part of the map itself cannot be had. */
  | { readonly kind: "broken"; readonly reason: string };

/**
 * Which windows of a disk rest on packs with a defect, where no other pack has their blocks. Walks
 * the whole map unless nothing has a defect. Errors: those of the store.
 */
export async function examineBase(
  map: DiskMap,
  health: VaultHealth,
  deps: {
    readonly access: MapAccess;
    readonly index: BlockIndex;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<BaseHealth> {
  const { access, index, signal } = deps;
  const windows: number[] = [];
  try {
    const nodes = new CheckedAccess(access, index, health);
    for await (const part of walkMap({ map, access: nodes, signal })) {
      if (part.leaf === undefined) continue;
      const end = part.firstWindow + part.windowCount;
      for (let window = part.firstWindow; window < end; window++) {
        const pieces = part.leaf.windows[window % leafWindows]?.pieces ?? [];
        for (const { block } of pieces) {
          if (block === undefined || (await isReliable(block, index, health))) continue;
          windows.push(window);
          break;
        }
      }
    }
  } catch (error) {
    signal?.throwIfAborted();
    if (!isDefect(error)) throw error;
    return { kind: "broken", reason: error.message };
  }
  return { kind: "usable", windows };
}

/** Reads nodes, and refuses those of packs with a defect: a new point must not rest on them. */
class CheckedAccess implements MapAccess {
  readonly nodeIdKey: Uint8Array;
  readonly source: MapAccess["source"];

  constructor(access: MapAccess, index: BlockIndex, health: VaultHealth) {
    this.nodeIdKey = access.nodeIdKey;
    this.source = async (ids, signal) => {
      for (const id of ids) {
        if (await isReliable(id, index, health)) continue;
        const node = toHex(id);
        const reason = "its pack is absent or damaged";
        throw new KluisError("ObjectCorrupt", `Cannot use map node "${node}": ${reason}`, {
          details: { node },
        });
      }
      return await access.source(ids, signal);
    };
  }
}

/** The index prefers copies in packs that are relied on, if it was told of the others. */
async function isReliable(
  id: Uint8Array,
  index: BlockIndex,
  health: VaultHealth,
): Promise<boolean> {
  const location = await index.locate(id);
  return location !== undefined && !health.hasDefect(location.pack.name);
}

function isDefect(error: unknown): error is KluisError {
  return (
    isKluisError(error, "ObjectCorrupt") ||
    isKluisError(error, "ObjectNotFound") ||
    isKluisError(error, "BlockMissing")
  );
}

function keyOf(name: Uint8Array): string {
  return asBuffer(name).toString("latin1");
}
