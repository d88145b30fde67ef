/** A store of map nodes in memory, which counts what is asked of it. */
import { assert, present } from "#base/assert.ts";
import { toHex } from "#base/bytes.ts";
import { parseInner } from "#formats/map-node.ts";
import type { MapNode } from "#vault/map/map-builder.ts";
import type { MapAccess, MapSource } from "#vault/map/map-source.ts";

/** Nodes by id. Also checks the contract of `emit`: children come before parents. */
export class MemoryNodes {
  readonly nodes = new Map<string, Uint8Array>();
  readonly access: MapAccess;
  /** Calls of the source, and nodes that they read. */
  calls = 0;
  reads = 0;
  /** Nodes emitted, with repetitions, and their bytes. */
  emitted = 0;
  emittedBytes = 0;

  constructor(nodeIdKey: Uint8Array = new Uint8Array(32).fill(1)) {
    this.access = { source: this.read, nodeIdKey };
  }

  /** The source. */
  readonly read: MapSource = async (ids) => {
    this.calls++;
    this.reads += ids.length;
    assert(new Set(ids.map(toHex)).size === ids.length, "no id is asked for twice in a call");
    return ids.map((id) => present(this.nodes.get(toHex(id)), `node ${toHex(id)} is stored`));
  };

  /** Stores a node. */
  readonly emit = async (node: MapNode): Promise<void> => {
    if (node.bytes[0] === 2) {
      for (const child of parseInner(node.bytes).children) {
        const isStored = child === undefined || this.nodes.has(toHex(child));
        assert(isStored, "children are stored before their parents");
      }
    }
    this.emitted++;
    this.emittedBytes += node.bytes.byteLength;
    this.nodes.set(toHex(node.id), node.bytes);
  };

  /** Sets all counts to zero. */
  resetCounts(): void {
    this.calls = 0;
    this.reads = 0;
    this.emitted = 0;
    this.emittedBytes = 0;
  }
}
