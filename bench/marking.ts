/** How fast a collection follows references: a map of many windows in real packs, marked once. */
import { fromIndexColumns, type IndexPack } from "#formats/index-segment.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import {
  frameBytesMax,
  idBytes,
  leafWindows,
  nodeChildren,
  windowPages,
} from "#formats/geometry.ts";
import { encodeInner, encodeLeaf } from "#formats/map-node.ts";
import { mapPackName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { SeededRandom } from "#testing/seeded-random.ts";
import { syntheticIds, syntheticKey, syntheticSegment } from "#testing/synthetic-index.ts";
import { Marker } from "#vault/gc/marker.ts";
import { computeId, computeName } from "#vault/hashing.ts";
import { type BlockIndex, openIndex } from "#vault/index/block-index.ts";
import { type FrameBlock, PackBuilder } from "#vault/pack/pack-builder.ts";

/** What marking took. */
export interface MarkingFigures {
  readonly references: number;
  readonly nodes: number;
  readonly ms: number;
  readonly perSecond: number;
}

const segmentEntries = 64 * 1024;

/** Builds a map of so many windows, each a block of its own, and marks it. */
export async function measureMarking(windows: number): Promise<MarkingFigures> {
  const key = syntheticKey("marking");
  const store = createMemoryStore();
  await using index = await openIndex({
    segmentNames: [],
    readSegment: () => Promise.reject(new Error("every segment is in memory")),
  });
  for (let first = 0; first < windows; first += segmentEntries) {
    const { name, packs } = syntheticSegment(key, first, Math.min(segmentEntries, windows - first));
    await index.addSegment(name, packs.map(fromIndexColumns));
  }
  const root = await buildMap(windows, key, { store, index });
  const marker = new Marker({ store, keys: testKeys, index });
  const startMs = performance.now();
  await marker.markMaps([root]);
  const ms = performance.now() - startMs;
  const { references, nodes } = marker.totals;
  return { references, nodes, ms, perSecond: (references / ms) * 1000 };
}

/** Puts the nodes of the map, level by level; returns the root's id. */
async function buildMap(
  windows: number,
  key: Uint8Array,
  place: { readonly store: ObjectStore; readonly index: BlockIndex },
): Promise<Uint8Array> {
  const packs = new NodePacks(place);
  let level: Uint8Array[] = [];
  for (let first = 0; first < windows; first += leafWindows) {
    level.push(await packs.add(leafOf(syntheticIds(key, first, leafWindows))));
  }
  for (let height = 1; level.length > 1; height++) {
    const parents: Uint8Array[] = [];
    for (let at = 0; at < level.length; at += nodeChildren) {
      const children = Array.from({ length: nodeChildren }, (_, child) => level[at + child]);
      parents.push(await packs.add(encodeInner({ level: height, children })));
    }
    level = parents;
  }
  await packs.close();
  return level[0] ?? new Uint8Array(idBytes);
}

function leafOf(ids: Uint8Array): Uint8Array {
  return encodeLeaf({
    windows: Array.from({ length: leafWindows }, (_, at) => ({
      checksum: ids.subarray(at * idBytes, at * idBytes + 16),
      pieces: [
        {
          pages: windowPages,
          block: ids.subarray(at * idBytes, (at + 1) * idBytes),
          offsetPages: 0,
        },
      ],
    })),
  });
}

/** Map packs and their index segment. */
class NodePacks {
  readonly #place: { readonly store: ObjectStore; readonly index: BlockIndex };
  readonly #random = new SeededRandom("map packs");
  readonly #frame = new Uint8Array(frameBytesMax);
  readonly #tables: IndexPack[] = [];
  #blocks: FrameBlock[] = [];
  #length = 0;
  #builder: PackBuilder | undefined;

  constructor(place: { readonly store: ObjectStore; readonly index: BlockIndex }) {
    this.#place = place;
  }

  async add(node: Uint8Array): Promise<Uint8Array> {
    if (this.#length + node.byteLength > frameBytesMax) await this.#seal();
    const id = computeId(testKeys.nodeIdKey, node);
    this.#frame.set(node, this.#length);
    this.#blocks.push({ id, offsetBytes: this.#length, lengthBytes: node.byteLength });
    this.#length += node.byteLength;
    return id;
  }

  async close(): Promise<void> {
    await this.#seal();
    await this.#finish();
    await this.#place.index.addSegment(this.#random.bytes(32), this.#tables);
  }

  async #seal(): Promise<void> {
    this.#builder ??= new PackBuilder({
      type: "mapPack",
      keys: testKeys,
      random: this.#random,
      verify: false,
    });
    this.#builder.add(this.#frame.subarray(0, this.#length), this.#blocks, { compress: true });
    this.#blocks = [];
    this.#length = 0;
    if (this.#builder.isFull) await this.#finish();
  }

  async #finish(): Promise<void> {
    if (this.#builder === undefined) return;
    const { bytes, table } = this.#builder.finish();
    const name = computeName(bytes);
    await this.#place.store.put(mapPackName(name), [bytes]);
    this.#tables.push({ ...table, name });
    this.#builder = undefined;
  }
}
