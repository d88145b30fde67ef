/**
 * Builds the map of a disk, whole or as changes to an earlier map, window after window.
 *
 * Only the path from the root to the current leaf is in memory. What is not touched is shared with
 * the base by its id and never read; a node is stored once its last child is known, children
 * before parents; a node equal to that of the base is not stored again.
 */
import { assert, present } from "#base/assert.ts";
import { leafWindows, nodeChildren, windowBytes } from "#formats/geometry.ts";
import { encodeInner, encodeLeaf, mapLevelOf } from "#formats/map-node.ts";
import type { Leaf, WindowMap } from "#formats/map-node.ts";
import { computeId } from "#vault/hashing.ts";
import {
  isSameId,
  leavesBelow,
  leavesOf,
  parseInnerAt,
  parseLeafAt,
  readNodes,
  toIdName,
  windowsOf,
  type DiskMap,
  type MapAccess,
  type NodePlace,
} from "./map-source.ts";

/** Windows that one {@link MapBuilder.prepare} may name. */
export const preparedWindowsMax = 1024;

/** A node that has to be stored. */
export interface MapNode {
  readonly id: Uint8Array;
  readonly bytes: Uint8Array;
}

/** What to build. */
export interface MapBuild {
  readonly sizeBytes: number;
  /** The map of an earlier state of the disk, of any size; what is not updated stays as there. */
  readonly base?: DiskMap | undefined;
  readonly access: MapAccess;
  /** Takes each new node, children before parents; may get equal nodes more than once. */
  readonly emit: (node: MapNode) => void | Promise<void>;
  readonly signal?: AbortSignal | undefined;
}

/** The map that was built. */
export interface BuiltMap extends DiskMap {
  readonly level: number;
}

type Id = Uint8Array | undefined;

interface OpenInner {
  readonly index: number;
  readonly baseId: Id;
  /** Those before the current child are final, the others still those of the base. */
  readonly children: Id[];
  isChanged: boolean;
}

interface OpenLeaf {
  readonly index: number;
  readonly baseId: Id;
  /** Of the base; read when it is needed. */
  base: Leaf | undefined;
  isRead: boolean;
  readonly updates: Map<number, WindowMap | undefined>;
}

const emptyMap: DiskMap = { root: undefined, sizeBytes: 0 };

/** Starts a map of `build.sizeBytes`. */
export function createMapBuilder(build: MapBuild): MapBuilder {
  return new MapBuilder(build);
}

/**
 * A map in the making. Windows are named in ascending order; calls do not overlap. After a failed
 * call the builder is of no use. Errors: those of the source, of `emit`, and ObjectCorrupt.
 */
export class MapBuilder {
  readonly #build: MapBuild;
  readonly #base: DiskMap;
  readonly #top: number;
  /** Open nodes by level; none at a level that is not open. Level 0 is in #leaf. */
  readonly #path: (OpenInner | undefined)[] = [];
  readonly #prepared = new Map<string, Uint8Array>();
  #leaf: OpenLeaf | undefined;
  /** The base's node at the level of the new root. */
  #baseTop: Id;
  #root: Id;
  #nextWindow = 0;
  #state: "new" | "ready" | "busy" | "finished" = "new";

  constructor(build: MapBuild) {
    this.#build = build;
    this.#base = build.base ?? emptyMap;
    this.#top = mapLevelOf(build.sizeBytes);
  }

  /**
   * Reads the base nodes on the way to these windows, level by level with one call of the source
   * each, so that reads and updates of them need no further one. Optional; forgets what an earlier
   * call read.
   *
   * @param windowIndexes Ascending, at most 1,024.
   */
  prepare(windowIndexes: readonly number[]): Promise<void> {
    return this.#run(async () => {
      assert(windowIndexes.length <= preparedWindowsMax, "at most 1,024 windows are prepared");
      await this.#prepare(windowIndexes);
    });
  }

  /** What the base holds at a window that was not updated; `undefined` for zeros. Reads its leaf. */
  read(windowIndex: number): Promise<WindowMap | undefined> {
    return this.#run(async () => {
      const leaf = await this.#openLeaf(windowIndex);
      await this.#readLeaf(leaf);
      return leaf.base?.windows[windowIndex % leafWindows];
    });
  }

  /** What the base holds at a leaf of which no window was updated; `undefined` where all is zeros. */
  readLeaf(leafIndex: number): Promise<Leaf | undefined> {
    return this.#run(async () => {
      const leaf = await this.#openLeaf(leafIndex * leafWindows);
      await this.#readLeaf(leaf);
      return leaf.base;
    });
  }

  /** Sets what a window holds; `undefined` for zeros. Once a window. */
  update(windowIndex: number, window: WindowMap | undefined): Promise<void> {
    return this.#run(async () => {
      const leaf = await this.#openLeaf(windowIndex);
      leaf.updates.set(windowIndex % leafWindows, window);
      this.#nextWindow = windowIndex + 1;
    });
  }

  /** Stores what is left and gives the map; call once, last. */
  finish(): Promise<BuiltMap> {
    return this.#run(async () => {
      if (this.#base.sizeBytes > this.#build.sizeBytes) await this.#cutTail();
      await this.#closeBelow(this.#top + 1);
      const { sizeBytes } = this.#build;
      return { root: this.#root, level: this.#top, sizeBytes };
    }, "finished");
  }

  async #run<T>(step: () => Promise<T>, after: "ready" | "finished" = "ready"): Promise<T> {
    assert(this.#state !== "finished", "a finished map does not change");
    assert(this.#state !== "busy", "calls do not overlap, and none follows one that failed");
    const isNew = this.#state === "new";
    this.#state = "busy";
    if (isNew) await this.#start();
    const result = await step();
    this.#state = after;
    return result;
  }

  /** Finds the base's node at the level of the new root, or opens the levels above the base's. */
  async #start(): Promise<void> {
    const { sizeBytes } = this.#base;
    let level = mapLevelOf(sizeBytes);
    let id = this.#build.sizeBytes === 0 ? undefined : this.#base.root;
    for (; level > this.#top && id !== undefined; level--) {
      id = (await this.#readInner(id, { level, index: 0, sizeBytes }))[0];
    }
    if (id === undefined) return;
    if (level === this.#top) {
      this.#baseTop = id;
      this.#root = id;
      return;
    }
    // The disk grew: its old root hangs at the far left below new nodes, whatever is updated.
    for (let above = this.#top; above > level; above--) {
      const children = emptyChildren();
      if (above === level + 1) children[0] = id;
      this.#path[above] = { index: 0, baseId: undefined, children, isChanged: true };
    }
  }

  async #openLeaf(windowIndex: number): Promise<OpenLeaf> {
    assert(Number.isInteger(windowIndex), "a window's index is an integer");
    assert(windowIndex >= this.#nextWindow, "windows are named in ascending order");
    assert(windowIndex < windowsOf(this.#build.sizeBytes), "the window lies on the disk");
    this.#nextWindow = windowIndex;
    return await this.#seekLeaf(Math.floor(windowIndex / leafWindows));
  }

  /** Closes what lies before the leaf and opens the way to it. */
  async #seekLeaf(index: number): Promise<OpenLeaf> {
    if (this.#leaf?.index === index) return this.#leaf;
    let level = 1;
    while (level <= this.#top && this.#path[level]?.index !== indexAt(index, level)) level++;
    await this.#closeBelow(level);
    for (level--; level >= 1; level--) {
      this.#path[level] = await this.#openInner(level, indexAt(index, level));
    }
    const baseId = this.#baseIdOf(0, index);
    this.#leaf = { index, baseId, base: undefined, isRead: false, updates: new Map() };
    return this.#leaf;
  }

  /** What the base holds at a node that is not open yet, but whose parent is. */
  #baseIdOf(level: number, index: number): Id {
    if (level === this.#top) return this.#baseTop;
    const parent = present(this.#path[level + 1], "the node above is open");
    return parent.children[index % nodeChildren];
  }

  async #openInner(level: number, index: number): Promise<OpenInner> {
    const baseId = this.#baseIdOf(level, index);
    const node: OpenInner = { index, baseId, children: emptyChildren(), isChanged: false };
    if (baseId === undefined) return node;
    const place = { level, index, sizeBytes: this.#base.sizeBytes };
    const below = Math.ceil(leavesOf(this.#build.sizeBytes) / leavesBelow(level - 1));
    for (const [slot, child] of (await this.#readInner(baseId, place)).entries()) {
      if (child === undefined) continue;
      if (index * nodeChildren + slot < below) node.children[slot] = child;
      else node.isChanged = true;
    }
    return node;
  }

  /** Closes the open nodes of all levels below `level`, from the leaf up. */
  async #closeBelow(level: number): Promise<void> {
    const leaf = this.#leaf;
    if (leaf !== undefined) {
      this.#leaf = undefined;
      this.#setChild(0, leaf, await this.#storeLeaf(leaf));
    }
    for (let at = 1; at < level; at++) {
      const node = this.#path[at];
      if (node === undefined) continue;
      this.#path[at] = undefined;
      this.#setChild(at, node, await this.#storeInner(at, node));
    }
  }

  #setChild(level: number, node: OpenInner | OpenLeaf, id: Id): void {
    if (level === this.#top) {
      this.#root = id;
      return;
    }
    const parent = present(this.#path[level + 1], "the node above is open");
    parent.children[node.index % nodeChildren] = id;
    if (!isSameId(id, node.baseId)) parent.isChanged = true;
  }

  async #storeLeaf(leaf: OpenLeaf): Promise<Id> {
    const inside = windowsOf(this.#build.sizeBytes) - leaf.index * leafWindows;
    const isCut = inside < leafWindows && this.#base.sizeBytes > this.#build.sizeBytes;
    if (leaf.updates.size === 0 && !isCut) return leaf.baseId;
    if (leaf.updates.size < Math.min(inside, leafWindows)) await this.#readLeaf(leaf);
    const windows: (WindowMap | undefined)[] = [];
    for (let at = 0; at < leafWindows; at++) {
      const isUpdated = leaf.updates.has(at);
      const window = isUpdated ? leaf.updates.get(at) : leaf.base?.windows[at];
      windows.push(at < inside ? window : undefined);
    }
    if (windows.every((window) => window === undefined)) return undefined;
    return await this.#store(encodeLeaf({ windows }), leaf.baseId);
  }

  async #storeInner(level: number, node: OpenInner): Promise<Id> {
    if (!node.isChanged) return node.baseId;
    if (node.children.every((child) => child === undefined)) return undefined;
    return await this.#store(encodeInner({ level, children: node.children }), node.baseId);
  }

  async #store(bytes: Uint8Array, baseId: Id): Promise<Uint8Array> {
    const id = computeId(this.#build.access.nodeIdKey, bytes);
    if (!isSameId(id, baseId)) await this.#build.emit({ id, bytes });
    return id;
  }

  /** Drops what the base maps past the end of a disk that shrank. */
  async #cutTail(): Promise<void> {
    const { sizeBytes } = this.#build;
    if (sizeBytes === 0) return;
    const last = windowsOf(sizeBytes) - 1;
    const leaf = await this.#seekLeaf(Math.floor(last / leafWindows));
    if (sizeBytes % windowBytes === 0 || this.#nextWindow > last) return;
    await this.#readLeaf(leaf);
    // Zeros must follow the end of the disk; only the caller can store the window so.
    const old = leaf.base?.windows[last % leafWindows];
    assert(old === undefined, "the partial last window of a disk that shrank is updated");
  }

  async #prepare(windowIndexes: readonly number[]): Promise<void> {
    this.#prepared.clear();
    const leaves = [...new Set(windowIndexes.map((index) => Math.floor(index / leafWindows)))];
    const { sizeBytes } = this.#base;
    let parents = new Map<number, readonly Id[]>();
    for (let level = this.#top; level >= 0; level--) {
      const children = new Map<number, readonly Id[]>();
      const wanted: { readonly index: number; readonly id: Uint8Array }[] = [];
      for (const index of new Set(leaves.map((leaf) => indexAt(leaf, level)))) {
        if (level === 0 && this.#leaf?.index === index && this.#leaf.isRead) continue;
        const open = this.#path[level];
        const above = parents.get(Math.floor(index / nodeChildren));
        const id = level === this.#top ? this.#baseTop : above?.[index % nodeChildren];
        if (open?.index === index) children.set(index, open.children);
        else if (id !== undefined) wanted.push({ index, id });
      }
      const ids = wanted.map((node) => node.id);
      const nodes = await readNodes(this.#build.access, ids, this.#build.signal);
      for (const [at, { index, id }] of wanted.entries()) {
        const bytes = present(nodes[at], "each node was read");
        this.#prepared.set(toIdName(id), bytes);
        if (level === 0) continue;
        children.set(index, parseInnerAt(id, bytes, { level, index, sizeBytes }).children);
      }
      parents = children;
    }
  }

  async #readLeaf(leaf: OpenLeaf): Promise<void> {
    if (leaf.isRead || leaf.baseId === undefined) return;
    const place = { level: 0, index: leaf.index, sizeBytes: this.#base.sizeBytes };
    leaf.base = parseLeafAt(leaf.baseId, await this.#readNode(leaf.baseId), place);
    leaf.isRead = true;
  }

  async #readInner(id: Uint8Array, place: NodePlace): Promise<readonly Id[]> {
    return parseInnerAt(id, await this.#readNode(id), place).children;
  }

  async #readNode(id: Uint8Array): Promise<Uint8Array> {
    const prepared = this.#prepared.get(toIdName(id));
    if (prepared !== undefined) return prepared;
    const [bytes] = await readNodes(this.#build.access, [id], this.#build.signal);
    return present(bytes, "the node was read");
  }
}

function indexAt(leafIndex: number, level: number): number {
  return Math.floor(leafIndex / leavesBelow(level));
}

function emptyChildren(): Id[] {
  return Array<Id>(nodeChildren).fill(undefined);
}
