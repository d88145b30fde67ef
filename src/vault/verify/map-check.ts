/**
 * Walks the map of a disk past whatever is damaged, and tells for each part whether it can be
 * restored.
 */
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { leafWindows, nodeChildren, windowBytes } from "#formats/geometry.ts";
import { mapLevelOf, type WindowMap } from "#formats/map-node.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";
import {
  type DiskMap,
  isSameId,
  leavesBelow,
  type MapAccess,
  parseInnerAt,
  parseLeafAt,
  readNodes,
  windowsOf,
} from "#vault/map/map-source.ts";
import { type Damage, type Verdict, verdictOf, worse } from "#vault/verify/damage.ts";

/** Consecutive windows that cannot be restored, or whose state is not known. */
export interface BadWindows {
  readonly firstWindow: number;
  readonly windowCount: number;
  readonly verdict: Exclude<Verdict, "sound">;
  readonly reason: string;
}

/** What a walk needs. */
export interface MapCheck {
  readonly map: DiskMap;
  /** Subtrees that this map has at the same place are taken as walked; `undefined` for none. */
  readonly known: DiskMap | undefined;
  readonly access: MapAccess;
  readonly index: BlockIndex;
  readonly damage: Damage;
  /** Told of every block that the map names, where it lies. */
  readonly onBlock: (location: BlockLocation) => void;
  readonly signal: AbortSignal | undefined;
}

interface Place {
  readonly level: number;
  readonly index: number;
}

/** Yields what is bad, in order. Errors that say nothing about the vault are thrown. */
export async function* checkMap(check: MapCheck): AsyncGenerator<BadWindows> {
  const { map, known } = check;
  if (map.root === undefined) return;
  const level = mapLevelOf(map.sizeBytes);
  // Maps of another height share subtrees, but not at places that are easy to name.
  const twin =
    known !== undefined && mapLevelOf(known.sizeBytes) === level ? known.root : undefined;
  yield* checkNode(check, { level, index: 0 }, map.root, twin);
}

async function* checkNode(
  check: MapCheck,
  place: Place,
  id: Uint8Array,
  twin: Uint8Array | undefined,
): AsyncGenerator<BadWindows> {
  if (isSameId(id, twin)) return;
  check.signal?.throwIfAborted();
  const { sizeBytes } = check.map;
  let children: readonly (Uint8Array | undefined)[];
  try {
    const [bytes] = await readNodes(check.access, [id], check.signal);
    if (bytes === undefined) return;
    if (place.level === 0) {
      const leaf = parseLeafAt(id, bytes, { ...place, sizeBytes });
      yield* checkLeaf(check, place, leaf.windows);
      return;
    }
    ({ children } = parseInnerAt(id, bytes, { ...place, sizeBytes }));
  } catch (error) {
    yield badSubtree(check, place, error);
    return;
  }
  const others = await readTwin(check, place, twin);
  for (const [at, child] of children.entries()) {
    if (child === undefined) continue;
    const below = { level: place.level - 1, index: place.index * nodeChildren + at };
    yield* checkNode(check, below, child, others[at]);
  }
}

/** Children of the node that was walked before; none where it cannot be read, which costs time only. */
async function readTwin(
  check: MapCheck,
  place: Place,
  twin: Uint8Array | undefined,
): Promise<readonly (Uint8Array | undefined)[]> {
  const sizeBytes = check.known?.sizeBytes;
  if (twin === undefined || sizeBytes === undefined) return [];
  try {
    const [bytes] = await readNodes(check.access, [twin], check.signal);
    return bytes === undefined ? [] : parseInnerAt(twin, bytes, { ...place, sizeBytes }).children;
  } catch (error) {
    check.signal?.throwIfAborted();
    if (isKluisError(error)) return [];
    throw error;
  }
}

async function* checkLeaf(
  check: MapCheck,
  place: Place,
  windows: readonly (WindowMap | undefined)[],
): AsyncGenerator<BadWindows> {
  for (const [at, window] of windows.entries()) {
    if (window === undefined) continue;
    const found = await checkWindow(check, window);
    if (found === undefined) continue;
    const firstWindow = place.index * leafWindows + at;
    yield { firstWindow, windowCount: 1, ...found };
  }
}

async function checkWindow(
  check: MapCheck,
  window: WindowMap,
): Promise<Pick<BadWindows, "verdict" | "reason"> | undefined> {
  let verdict: Verdict = "sound";
  let reason = "";
  let last: Uint8Array | undefined;
  for (const { block } of window.pieces) {
    if (block === undefined || isSameId(block, last)) continue;
    last = block;
    const here = await checkBlock(check, block);
    if (here.verdict !== "sound" && reason === "") ({ reason } = here);
    verdict = worse(verdict, here.verdict);
  }
  return verdict === "sound" ? undefined : { verdict, reason };
}

async function checkBlock(
  check: MapCheck,
  block: Uint8Array,
): Promise<{ readonly verdict: Verdict; readonly reason: string }> {
  const location = await check.index.locate(block);
  if (location === undefined) {
    return { verdict: "damaged", reason: "a block is in no pack that the index names" };
  }
  check.onBlock(location);
  const verdict = check.damage.verdictAt(block, location);
  return { verdict, reason: "a block cannot be read from its pack" };
}

function badSubtree(check: MapCheck, place: Place, error: unknown): BadWindows {
  check.signal?.throwIfAborted();
  if (!isKluisError(error) || isKluisError(error, "Internal")) throw error;
  const firstWindow = place.index * leavesBelow(place.level) * leafWindows;
  const end = Math.min(
    (place.index + 1) * leavesBelow(place.level) * leafWindows,
    windowsOf(check.map.sizeBytes),
  );
  const known: KluisError = error;
  return {
    firstWindow,
    windowCount: end - firstWindow,
    verdict: verdictOf(known),
    reason: known.message,
  };
}

/** Bytes of a range of windows, cut at the end of the disk. */
export function toByteRange(
  bad: Pick<BadWindows, "firstWindow" | "windowCount">,
  sizeBytes: number,
): { readonly offsetBytes: number; readonly lengthBytes: number } {
  const offsetBytes = bad.firstWindow * windowBytes;
  const end = Math.min((bad.firstWindow + bad.windowCount) * windowBytes, sizeBytes);
  return { offsetBytes, lengthBytes: end - offsetBytes };
}
