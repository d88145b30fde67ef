/**
 * The walk below every reader of maps: the leaves in which two maps differ, in disk order.
 *
 * One stage for each level, from the root down; a stage collects nodes of its level, reads them
 * with one call of the source and hands their differing children to the next. Subtrees of equal id
 * are never read. Memory: a batch of nodes for each level, twice that for leaves, whose next batch
 * is read while the caller works on the one before.
 */
import { assert, present } from "#base/assert.ts";
import { leafWindows, nodeChildren } from "#formats/geometry.ts";
import { mapLevelOf, type Leaf } from "#formats/map-node.ts";
import {
  isSameId,
  leavesBelow,
  parseInnerAt,
  parseLeafAt,
  readNodes,
  windowsOf,
  type DiskMap,
  type MapAccess,
} from "./map-source.ts";

/** Nodes of a level that a walk reads with one call. */
export const walkBatchNodes = 1024;

/** Consecutive windows of a disk. */
export interface WindowRange {
  readonly firstWindow: number;
  readonly windowCount: number;
}

/** What to walk. */
export interface TreeWalk {
  readonly a: DiskMap;
  readonly b: DiskMap;
  readonly access: MapAccess;
  /** Only leaves that touch this range; by default all. */
  readonly range?: WindowRange | undefined;
  /** Nodes read with one call; by default and at most {@link walkBatchNodes}. */
  readonly prefetch?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A leaf that differs; `undefined` where its windows are all zeros or past the disk's end. */
export interface LeafPair {
  /** The leaf covers the windows from 8 × `index` on. */
  readonly index: number;
  readonly a: Leaf | undefined;
  readonly b: Leaf | undefined;
}

type Id = Uint8Array | undefined;

/** A node of one level, in both maps. */
interface NodePair {
  readonly index: number;
  readonly ids: readonly [Id, Id];
}

/** Nodes of one level with their content, where it had to be read. */
interface NodeBatch {
  readonly nodes: readonly NodePair[];
  readonly bytes: readonly (readonly [Id, Id])[];
}

/** The leaves in which the maps differ. Errors: those of the source; ObjectCorrupt. */
export async function* walkLeaves(walk: TreeWalk): AsyncGenerator<LeafPair> {
  const top = Math.max(mapLevelOf(walk.a.sizeBytes), mapLevelOf(walk.b.sizeBytes));
  for await (const batch of readAhead(readBatches(walk, 0, top))) {
    for (const [at, { index, ids }] of batch.nodes.entries()) {
      const bytes = present(batch.bytes[at], "each node of a batch was read");
      const [a, b] = ([0, 1] as const).map((side) => {
        const id = ids[side];
        const text = bytes[side];
        if (id === undefined || text === undefined) return undefined;
        return parseLeafAt(id, text, { level: 0, index, sizeBytes: mapOf(walk, side).sizeBytes });
      });
      yield { index, a, b };
    }
  }
}

/** The differing nodes of `level` in order, in chunks; each chunk is what one read above gave. */
async function* differingNodes(
  walk: TreeWalk,
  level: number,
  top: number,
): AsyncGenerator<NodePair[]> {
  if (level === top) {
    const roots: NodePair = { index: 0, ids: [walk.a.root, walk.b.root] };
    yield [roots].filter((node) => isWanted(walk, level, node));
    return;
  }
  for await (const batch of readBatches(walk, level + 1, top)) {
    const chunk: NodePair[] = [];
    for (const [at, node] of batch.nodes.entries()) {
      const bytes = present(batch.bytes[at], "each node of a batch was read");
      const a = childrenOf(walk, 0, level + 1, { ...node, bytes: bytes[0] });
      const b = childrenOf(walk, 1, level + 1, { ...node, bytes: bytes[1] });
      for (let slot = 0; slot < nodeChildren; slot++) {
        const index = node.index * nodeChildren + slot;
        const child: NodePair = { index, ids: [a[slot], b[slot]] };
        if (isWanted(walk, level, child)) chunk.push(child);
      }
    }
    yield chunk;
  }
}

async function* readBatches(walk: TreeWalk, level: number, top: number): AsyncGenerator<NodeBatch> {
  const size = walk.prefetch ?? walkBatchNodes;
  assert(size >= 1 && size <= walkBatchNodes, "a walk reads 1 to 1,024 nodes at once");
  let waiting: NodePair[] = [];
  for await (const chunk of differingNodes(walk, level, top)) {
    waiting = waiting.length === 0 ? chunk : waiting.concat(chunk);
    let at = 0;
    for (; waiting.length - at >= size; at += size) {
      yield await readBatch(walk, level, waiting.slice(at, at + size));
    }
    waiting = waiting.slice(at);
  }
  if (waiting.length > 0) yield await readBatch(walk, level, waiting);
}

async function readBatch(
  walk: TreeWalk,
  level: number,
  nodes: readonly NodePair[],
): Promise<NodeBatch> {
  const wanted: Uint8Array[] = [];
  const find = (id: Id, side: 0 | 1): number | undefined => {
    // Above its own root a smaller map has no nodes: the id stands for the root below.
    if (id === undefined || level > mapLevelOf(mapOf(walk, side).sizeBytes)) return undefined;
    return wanted.push(id) - 1;
  };
  const places = nodes.map(({ ids }) => [find(ids[0], 0), find(ids[1], 1)] as const);
  walk.signal?.throwIfAborted();
  const bytes = await readNodes(walk.access, wanted, walk.signal);
  const get = (place: number | undefined): Id => (place === undefined ? undefined : bytes[place]);
  return { nodes, bytes: places.map(([a, b]) => [get(a), get(b)] as const) };
}

/** The ids of a node's children in one map. */
function childrenOf(
  walk: TreeWalk,
  side: 0 | 1,
  level: number,
  node: NodePair & { readonly bytes: Id },
): readonly Id[] {
  const id = node.ids[side];
  const { sizeBytes } = mapOf(walk, side);
  if (id === undefined) return [];
  if (level > mapLevelOf(sizeBytes)) return [id];
  const text = present(node.bytes, "a node at or below the root was read");
  return parseInnerAt(id, text, { level, index: node.index, sizeBytes }).children;
}

function mapOf(walk: TreeWalk, side: 0 | 1): DiskMap {
  return side === 0 ? walk.a : walk.b;
}

function isWanted(walk: TreeWalk, level: number, node: NodePair): boolean {
  if (isSameId(node.ids[0], node.ids[1])) return false;
  if (walk.range === undefined) return true;
  const windows = leavesBelow(level) * leafWindows;
  const first = node.index * windows;
  const { firstWindow, windowCount } = walk.range;
  return first < firstWindow + windowCount && firstWindow < first + windows;
}

/** The same items, the next one always under way while the caller works on the one before. */
async function* readAhead<T>(source: AsyncGenerator<T>): AsyncGenerator<T> {
  let next = startNext(source);
  try {
    for (;;) {
      const result = await next;
      if (result.done === true) return;
      next = startNext(source);
      yield result.value;
    }
  } finally {
    await source.return(undefined);
  }
}

function startNext<T>(source: AsyncGenerator<T>): Promise<IteratorResult<T>> {
  const next = source.next();
  // Its error is raised where it is awaited; a caller that stops early does not want it.
  next.catch(() => undefined);
  return next;
}

/** The windows of the whole disk. */
export function wholeDisk(sizeBytes: number): WindowRange {
  return { firstWindow: 0, windowCount: windowsOf(sizeBytes) };
}
