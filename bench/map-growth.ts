/**
 * What an increment of 2,621 scattered pages adds to a store, with the real codecs of map and index:
 * `node bench/map-growth.ts [--json]`. Data pages are taken as incompressible. The 1 TiB case takes
 * half a minute and 1 GiB of memory.
 */
import { constants, zstdCompressSync } from "node:zlib";

import { concatBytes } from "#base/bytes.ts";
import { containerHeaderBytes, frameOverheadBytes, trailerBytes } from "#formats/container.ts";
import {
  frameBytesMax,
  pageBytes,
  regionBytes,
  windowBytes,
  windowPages,
} from "#formats/geometry.ts";
import { encodeIndexSegment, type IndexPack } from "#formats/index-segment.ts";
import { MemoryNodes } from "#testing/memory-nodes.ts";
import { createPrng, type Prng } from "#testing/seed.ts";
import { createMapBuilder, type MapNode } from "#vault/map/map-builder.ts";
import type { DiskMap } from "#vault/map/map-source.ts";
import { planWindow, type PageChange } from "#vault/map/plan-window.ts";
import { createWorkload, workloadPages } from "./rewrite-rule/workloads.ts";

const seed = 20_240_607;
/** A manifest of one disk, about. */
const manifestBytes = 1024;

/** One increment; bytes as they stand in the store, of nodes also as encoded. */
export interface GrowthRow {
  readonly disk: string;
  readonly changedBytes: number;
  readonly blocks: number;
  readonly nodes: number;
  readonly nodeBytes: number;
  readonly mapBytes: number;
  readonly indexBytes: number;
  /** Growth of the whole store for each changed byte. */
  readonly growth: number;
}

/** Maps the first bytes of a disk, changes pages there, and adds up what that stores. */
export async function measureGrowth(disk: {
  readonly name: string;
  readonly sizeBytes: number;
  readonly mappedBytes: number;
}): Promise<GrowthRow> {
  const store = new MemoryNodes();
  const random = createPrng(seed);
  const base = await buildBase(store, disk, random);
  const changed = createWorkload("P", disk.mappedBytes / pageBytes, seed)();
  const increment = await buildIncrement(store, base, changed, random);
  const dataFrames = increment.blocks.map(({ pages }) => pages * pageBytes);
  const dataPack = packOf(
    "pack",
    dataFrames,
    increment.blocks.map((block, frame) => ({
      id: block.id,
      frame,
      offsetBytes: 0,
      lengthBytes: block.pages * pageBytes,
    })),
  );
  const map = packNodes(increment.nodes);
  const index = [dataPack, map.pack].map((pack) => 2 * storedBytes(encodeIndexSegment([pack])));
  const containers = 5 * (containerHeaderBytes + trailerBytes + frameOverheadBytes);
  const indexBytes = index.reduce((sum, bytes) => sum + bytes, 0);
  const changedBytes = workloadPages * pageBytes;
  const dataBytes = changedBytes + dataFrames.length * frameOverheadBytes;
  const total = dataBytes + map.storedBytes + indexBytes + containers + manifestBytes;
  return {
    disk: disk.name,
    changedBytes,
    blocks: increment.blocks.length,
    nodes: increment.nodes.length,
    nodeBytes: increment.nodes.reduce((sum, node) => sum + node.bytes.byteLength, 0),
    mapBytes: map.storedBytes,
    indexBytes,
    growth: total / changedBytes,
  };
}

async function buildBase(
  store: MemoryNodes,
  disk: { readonly sizeBytes: number; readonly mappedBytes: number },
  random: Prng,
): Promise<DiskMap> {
  const { access, emit } = store;
  const builder = createMapBuilder({ sizeBytes: disk.sizeBytes, access, emit });
  for (let window = 0; window < disk.mappedBytes / windowBytes; window++) {
    const pieces = [{ pages: windowPages, block: random.bytes(24), offsetPages: 0 }];
    await builder.update(window, { checksum: random.bytes(16), pieces });
  }
  return await builder.finish();
}

interface PageBlock {
  readonly id: Uint8Array;
  pages: number;
}

/** Groups changed pages into blocks and changes the map as the writer does. */
async function buildIncrement(
  store: MemoryNodes,
  base: DiskMap,
  changed: readonly number[],
  random: Prng,
): Promise<{ readonly blocks: readonly PageBlock[]; readonly nodes: readonly MapNode[] }> {
  const nodes: MapNode[] = [];
  const emit = (node: MapNode): number => nodes.push(node);
  const builder = createMapBuilder({
    ...base,
    base,
    access: store.access,
    emit: (node) => void emit(node),
  });
  const blocks: PageBlock[] = [];
  const windows = new Map<number, PageChange[]>();
  let region = -1;
  for (const page of changed) {
    let block = blocks.at(-1);
    const pageRegion = Math.floor((page * pageBytes) / regionBytes);
    if (block === undefined || block.pages === windowPages || pageRegion !== region) {
      block = { id: random.bytes(24), pages: 0 };
      blocks.push(block);
      region = pageRegion;
    }
    const window = Math.floor(page / windowPages);
    const change = {
      firstPage: page % windowPages,
      pages: 1,
      block: block.id,
      offsetPages: block.pages++,
    };
    windows.set(window, [...(windows.get(window) ?? []), change]);
  }
  for (const [window, changes] of windows) {
    await builder.update(window, planWindow(await builder.read(window), changes, random.bytes(16)));
  }
  await builder.finish();
  return { blocks, nodes };
}

/** Packs nodes as the writer does: frames of at most 1 MiB, compressed. */
function packNodes(nodes: readonly MapNode[]): { pack: IndexPack; storedBytes: number } {
  const frames: MapNode[][] = [[]];
  let length = 0;
  for (const node of nodes) {
    if (length + node.bytes.byteLength > frameBytesMax) {
      frames.push([]);
      length = 0;
    }
    frames.at(-1)?.push(node);
    length += node.bytes.byteLength;
  }
  const entries = frames.flatMap((list, frame) => {
    let offsetBytes = 0;
    return list.map(({ id, bytes }) => {
      const entry = { id, frame, offsetBytes, lengthBytes: bytes.byteLength };
      offsetBytes += bytes.byteLength;
      return entry;
    });
  });
  const plain = frames.map((list) => concatBytes(list.map((node) => node.bytes)));
  const stored = plain.reduce((sum, bytes) => sum + storedBytes(bytes), 0);
  return {
    pack: packOf(
      "mapPack",
      plain.map((bytes) => bytes.byteLength),
      entries,
    ),
    storedBytes: stored,
  };
}

function packOf(
  type: IndexPack["type"],
  plainBytes: readonly number[],
  entries: IndexPack["entries"],
): IndexPack {
  const frames = plainBytes.map((bytes) => ({
    sealedBytes: bytes + frameOverheadBytes,
    plainBytes: bytes,
    codec: "stored" as const,
  }));
  const salt = new Uint8Array(32).fill(1);
  return { type, name: salt, salt, epoch: 1, frames, entries };
}

/** Bytes of one frame with that plaintext. */
function storedBytes(plain: Uint8Array): number {
  const params = { [constants.ZSTD_c_compressionLevel]: 1 };
  const packed = zstdCompressSync(plain, { params }).byteLength;
  return Math.min(packed, plain.byteLength) + frameOverheadBytes;
}

/** The command; see the file's head. */
export async function runMapGrowthBench(): Promise<void> {
  const gibibyte = 2 ** 30;
  const rows = [
    await measureGrowth({
      name: "P: 4 GiB, 1 GiB mapped",
      sizeBytes: 4 * gibibyte,
      mappedBytes: gibibyte,
    }),
    await measureGrowth({
      name: "1 TiB, all mapped",
      sizeBytes: 1024 * gibibyte,
      mappedBytes: 1024 * gibibyte,
    }),
  ];
  if (process.argv.includes("--json")) console.log(JSON.stringify(rows, undefined, 2));
  else console.table(rows);
}

if (import.meta.main) await runMapGrowthBench();
