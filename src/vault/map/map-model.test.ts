// Goal: whatever is updated, resized and built anew, the map holds what a plain page table holds.
// Method: random rounds on one disk against a table of pages; after each, the walk, the difference
// to the round before and a map built from nothing are compared with the table.
import assert from "node:assert/strict";
import { test } from "node:test";

import { present } from "#base/assert.ts";
import { toHex } from "#base/bytes.ts";
import { leafWindows, windowBytes, windowPages } from "#formats/geometry.ts";
import type { WindowMap } from "#formats/map-node.ts";
import { MemoryNodes } from "#testing/memory-nodes.ts";
import { createSeededRandom, type SeededRandom } from "#testing/seeded-random.ts";
import { computeId } from "#vault/hashing.ts";
import { diffMaps } from "./diff-maps.ts";
import { createMapBuilder, type MapBuilder } from "./map-builder.ts";
import { windowsOf, type DiskMap } from "./map-source.ts";
import { planWindow, type PageChange } from "./plan-window.ts";
import { walkMap } from "./walk-map.ts";

/** A page is named by its block and place; "0" is zeros. Windows of zeros are not there. */
type Table = Map<number, readonly string[]>;

const rounds = 25;
const key = new Uint8Array(32).fill(9);
const zeroPages: readonly string[] = Array<string>(windowPages).fill("0");

test("map model: equals a page table when a disk is updated and resized at random", async () => {
  for (const windowsMax of [3, 40, 700, 5000]) {
    await runRounds(windowsMax, createSeededRandom(`map model ${windowsMax}`));
  }
});

async function runRounds(windowsMax: number, random: SeededRandom): Promise<void> {
  const store = new MemoryNodes();
  let table: Table = new Map();
  let map: DiskMap = { root: undefined, sizeBytes: 0 };
  for (let round = 0; round < rounds; round++) {
    const isResized = round === 0 || random.chance(0.4);
    const sizeBytes = isResized ? randomSize(windowsMax, random) : map.sizeBytes;
    const next = cut(table, sizeBytes);
    const base = round === 0 ? undefined : map;
    const { access, emit } = store;
    const builder = createMapBuilder({ sizeBytes, base, access, emit });
    await change(builder, next, { sizeBytes, isShrunk: sizeBytes < map.sizeBytes, random });
    const built = await builder.finish();

    assert.deepEqual(await tableOf(store, built, random), next, `round ${round}`);
    assert.equal(await rebuild(store, built), built.root && toHex(built.root));
    await assertDifference(store, { map, table }, { map: built, table: next });
    map = built;
    table = next;
  }
}

function randomSize(windowsMax: number, random: SeededRandom): number {
  if (random.chance(0.05)) return 0;
  const windows = random.integer(1, random.chance(0.3) ? Math.min(windowsMax, 20) : windowsMax);
  const end = windows * windowBytes;
  return random.chance(0.5) ? end : end - 512 * random.integer(1, windowBytes / 512 - 1);
}

/** The table of a disk that got another size. */
function cut(table: Table, sizeBytes: number): Table {
  return new Map([...table].filter(([window]) => window < windowsOf(sizeBytes)));
}

/** Changes some windows of the table and of the map in the making alike. */
async function change(
  builder: MapBuilder,
  table: Table,
  disk: { sizeBytes: number; isShrunk: boolean; random: SeededRandom },
): Promise<void> {
  const { random } = disk;
  const windows = windowsOf(disk.sizeBytes);
  const density = random.pick([0, 0.002, 0.02, 0.3, 1]);
  const chosen: number[] = [];
  for (let window = 0; window < windows; window++) {
    const isCutLast = window === windows - 1 && disk.isShrunk;
    if (random.chance(density) || isCutLast) chosen.push(window);
  }
  const isPrepared = random.chance(0.5);
  for (let at = 0; at < chosen.length; at++) {
    if (isPrepared && at % 50 === 0) await builder.prepare(chosen.slice(at, at + 50));
    const window = present(chosen[at], "a window was chosen");
    const isWhole = random.chance(0.4);
    const base = isWhole && random.chance(0.5) ? undefined : await builder.read(window);
    const changes = isWhole ? wholeChange(random) : pageChanges(random);
    const pages = [...(table.get(window) ?? zeroPages)];
    for (const { firstPage, pages: count, block, offsetPages } of changes) {
      for (let page = 0; page < count; page++) {
        pages[firstPage + page] = nameOf(block, offsetPages + page);
      }
    }
    await builder.update(window, planWindow(base, changes, checksumOf(pages)));
    if (pages.every((page) => page === "0")) table.delete(window);
    else table.set(window, pages);
  }
}

function wholeChange(random: SeededRandom): PageChange[] {
  const block = random.chance(0.3) ? undefined : randomBlock(random);
  return [{ firstPage: 0, pages: windowPages, block, offsetPages: 0 }];
}

function pageChanges(random: SeededRandom): PageChange[] {
  const changes: PageChange[] = [];
  for (let page = random.integer(0, 40); page < windowPages; page += random.integer(1, 30)) {
    const pages = random.integer(1, Math.min(windowPages - page, 10));
    const block = random.chance(0.2) ? undefined : randomBlock(random);
    const offsetPages = block === undefined ? 0 : random.integer(0, windowPages - pages);
    changes.push({ firstPage: page, pages, block, offsetPages });
    page += pages;
  }
  return changes;
}

/** One of few blocks, so that neighbours may join and leaves may be equal. */
function randomBlock(random: SeededRandom): Uint8Array {
  return new Uint8Array(24).fill(random.integer(1, 12));
}

function nameOf(block: Uint8Array | undefined, offsetPages: number): string {
  return block === undefined ? "0" : `${block[0]}+${offsetPages}`;
}

function checksumOf(pages: readonly string[]): Uint8Array {
  return computeId(key, new TextEncoder().encode(pages.join(","))).subarray(0, 16);
}

function pagesOf(window: WindowMap): string[] {
  const pages: string[] = [];
  for (const piece of window.pieces) {
    for (let page = 0; page < piece.pages; page++) {
      pages.push(nameOf(piece.block, piece.offsetPages + page));
    }
  }
  assert.deepEqual(window.checksum, checksumOf(pages));
  return pages;
}

/** The table that a walk gives, in one part or in several. */
async function tableOf(store: MemoryNodes, map: DiskMap, random: SeededRandom): Promise<Table> {
  const table: Table = new Map();
  const { access } = store;
  const windows = windowsOf(map.sizeBytes);
  const prefetch = random.pick([1, 2, 17, 1024]);
  for (let from = 0; from < windows;) {
    const windowCount = random.integer(1, windows - from);
    const range = { firstWindow: from, windowCount };
    let next = from;
    for await (const part of walkMap({ map, access, range, prefetch })) {
      assert.equal(part.firstWindow, next, "a walk has no gaps");
      assert.ok(part.windowCount > 0);
      next += part.windowCount;
      for (let window = part.firstWindow; part.leaf !== undefined && window < next; window++) {
        const entry = part.leaf.windows[window % leafWindows];
        if (entry !== undefined) table.set(window, pagesOf(entry));
      }
    }
    from += windowCount;
    assert.equal(next, from, "a walk covers its range");
  }
  return table;
}

/** The root of the same disk built from nothing. */
async function rebuild(store: MemoryNodes, map: DiskMap): Promise<string | undefined> {
  const { access } = store;
  const copy = new MemoryNodes();
  const { sizeBytes } = map;
  const builder = createMapBuilder({ sizeBytes, access: copy.access, emit: copy.emit });
  for await (const part of walkMap({ map, access })) {
    for (let at = 0; part.leaf !== undefined && at < part.windowCount; at++) {
      const window = part.leaf.windows[(part.firstWindow + at) % leafWindows];
      if (window !== undefined) await builder.update(part.firstWindow + at, window);
    }
  }
  const { root } = await builder.finish();
  return root && toHex(root);
}

interface State {
  readonly map: DiskMap;
  readonly table: Table;
}

async function assertDifference(store: MemoryNodes, a: State, b: State): Promise<void> {
  const expected: number[] = [];
  for (const window of new Set([...a.table.keys(), ...b.table.keys()])) {
    const before = a.table.get(window)?.join();
    if (before !== b.table.get(window)?.join()) expected.push(window);
  }
  const found: number[] = [];
  for await (const difference of diffMaps({ a: a.map, b: b.map, access: store.access })) {
    found.push(difference.windowIndex);
    assert.deepEqual(difference.a && pagesOf(difference.a), a.table.get(difference.windowIndex));
    assert.deepEqual(difference.b && pagesOf(difference.b), b.table.get(difference.windowIndex));
  }
  assert.deepEqual(
    found,
    expected.sort((x, y) => x - y),
  );
}
