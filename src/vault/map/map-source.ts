/** How the map layer gets at stored nodes, and the check that each is what its id says. */
import { present } from "#base/assert.ts";
import { asBuffer, bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { leafWindows, nodeChildren, windowBytes } from "#formats/geometry.ts";
import { parseInner, parseLeaf, type InnerNode, type Leaf } from "#formats/map-node.ts";
import { computeId } from "#vault/hashing.ts";

/** The map of a disk at one recovery point. */
export interface DiskMap {
  /** Id of the root, 24 bytes; `undefined` where the whole disk is zeros. */
  readonly root: Uint8Array | undefined;
  readonly sizeBytes: number;
}

/**
 * Reads encoded nodes: one for each id, in that order. Ids come in disk order and never twice in a
 * call, so that frames which hold several can be fetched once. The bytes need not be checked.
 */
export type MapSource = (
  ids: readonly Uint8Array[],
  signal?: AbortSignal,
) => Promise<readonly Uint8Array[]>;

/** Where nodes come from, and the key that their ids were made with. */
export interface MapAccess {
  readonly source: MapSource;
  readonly nodeIdKey: Uint8Array;
}

/** Where a node stands in the tree of a disk of `sizeBytes`. */
export interface NodePlace {
  readonly level: number;
  /** From 0, counted among the nodes of that level. */
  readonly index: number;
  readonly sizeBytes: number;
}

/** Windows of a disk; the last may be partial. */
export function windowsOf(sizeBytes: number): number {
  return Math.ceil(sizeBytes / windowBytes);
}

/** Leaves of the map of a disk. */
export function leavesOf(sizeBytes: number): number {
  return Math.ceil(windowsOf(sizeBytes) / leafWindows);
}

/** Leaves below one node of `level`. */
export function leavesBelow(level: number): number {
  return nodeChildren ** level;
}

/** Whether both name the same subtree. */
export function isSameId(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return bytesEqual(a, b);
}

/** The id as a key of a Map. */
export function toIdName(id: Uint8Array): string {
  return asBuffer(id).toString("latin1");
}

/**
 * Reads the nodes of `ids`, of which some may be equal, with one call of the source, and checks
 * each by its id. Errors: those of the source; ObjectCorrupt, which names the node.
 */
export async function readNodes(
  access: MapAccess,
  ids: readonly Uint8Array[],
  signal?: AbortSignal,
): Promise<Uint8Array[]> {
  const order = new Map<string, number>();
  const wanted: Uint8Array[] = [];
  for (const id of ids) {
    const name = toIdName(id);
    if (order.has(name)) continue;
    order.set(name, wanted.length);
    wanted.push(id);
  }
  if (wanted.length === 0) return [];
  const nodes = await access.source(wanted, signal);
  for (const [at, id] of wanted.entries()) {
    const node = present(nodes[at], "the source gives one node for each id");
    if (!bytesEqual(computeId(access.nodeIdKey, node), id)) {
      throw corruptNode(id, "its content does not match its id");
    }
  }
  return ids.map((id) => present(nodes[order.get(toIdName(id)) ?? -1], "each id was read"));
}

/** Parses a leaf and checks that it stays inside the disk; ObjectCorrupt names the node. */
export function parseLeafAt(id: Uint8Array, bytes: Uint8Array, place: NodePlace): Leaf {
  const leaf = parseNamed(id, () => parseLeaf(bytes));
  const inside = windowsOf(place.sizeBytes) - place.index * leafWindows;
  if (leaf.windows.some((window, at) => window !== undefined && at >= inside)) {
    throw corruptNode(id, "it maps windows past the end of the disk");
  }
  return leaf;
}

/** Parses an inner node and checks that it fits its place; ObjectCorrupt names the node. */
export function parseInnerAt(id: Uint8Array, bytes: Uint8Array, place: NodePlace): InnerNode {
  const node = parseNamed(id, () => parseInner(bytes));
  if (node.level !== place.level) {
    throw corruptNode(id, `its level is ${node.level} instead of ${place.level}`);
  }
  const children = Math.ceil(leavesOf(place.sizeBytes) / leavesBelow(place.level - 1));
  const inside = children - place.index * nodeChildren;
  if (node.children.some((child, at) => child !== undefined && at >= inside)) {
    throw corruptNode(id, "it has children past the end of the disk");
  }
  return node;
}

function parseNamed<T>(id: Uint8Array, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (isKluisError(error, "ObjectCorrupt")) throw corruptNode(id, error.message, error);
    throw error;
  }
}

function corruptNode(id: Uint8Array, reason: string, cause?: unknown): KluisError {
  const node = toHex(id);
  const message = `Cannot use map node "${node}": ${reason}`;
  return new KluisError("ObjectCorrupt", message, { details: { node }, cause });
}
