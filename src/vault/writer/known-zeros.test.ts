// Goal: no zero that matters is left out, none that the base has already costs time.
// Method: random extents against the windows that a base maps; a trim of a disk of terabytes.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import type { Extent } from "#ports/disk.ts";
import { createMemoryReader, MemoryDisk } from "#testing/memory-disk.ts";
import { MemoryNodes } from "#testing/memory-nodes.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom, readTestSeed } from "#testing/seeded-random.ts";
import { backUp } from "#testing/vault-points.ts";
import { createMapBuilder } from "#vault/map/map-builder.ts";
import type { DiskMap } from "#vault/map/map-source.ts";
import { dropKnownZeros } from "./known-zeros.ts";

const random = createSeededRandom("known zeros");
const windowCount = 40;

/** A map of 40 windows, of which those listed hold something. */
async function createBase(nodes: MemoryNodes, mapped: readonly number[]): Promise<DiskMap> {
  const { access, emit } = nodes;
  const builder = createMapBuilder({ sizeBytes: windowCount * windowBytes, access, emit });
  for (const window of mapped.toSorted((a, b) => a - b)) {
    const pieces = [{ pages: windowPages, block: random.bytes(24), offsetPages: 0 }];
    await builder.update(window, { checksum: random.bytes(16), pieces });
  }
  return await builder.finish();
}

/** The kind that extents give each page. */
function pagesOf(extents: readonly Extent[]): Map<number, Extent["kind"]> {
  const pages = new Map<number, Extent["kind"]>();
  let end = 0;
  for (const { offsetBytes, lengthBytes, kind } of extents) {
    assert.ok(offsetBytes >= end && lengthBytes > 0, "in order, not empty");
    end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; at += pageBytes) pages.set(at / pageBytes, kind);
  }
  return pages;
}

test("known zeros: only whole windows that the base does not map are left out", async () => {
  const runs = fc.array(
    fc.tuple(fc.integer({ min: 1, max: 400 }), fc.constantFrom("data", "zero", undefined)),
    { maxLength: 15 },
  );
  const mapped = fc.uniqueArray(fc.nat(windowCount - 1), { maxLength: windowCount });
  await fc.assert(
    fc.asyncProperty(runs, mapped, fc.nat(7), async (list, windows, cutSectors) => {
      const nodes = new MemoryNodes();
      const base = await createBase(nodes, windows);
      const changes: Extent[] = [];
      let page = 0;
      for (const [pages, kind] of list) {
        const lengthBytes = Math.min(pages, windowCount * windowPages - page) * pageBytes;
        const offsetBytes = page * pageBytes;
        if (kind !== undefined && lengthBytes > 0) changes.push({ offsetBytes, lengthBytes, kind });
        page += lengthBytes / pageBytes;
      }
      // The last one may end with the disk, on any sector.
      const last = changes.pop();
      if (last) changes.push({ ...last, lengthBytes: last.lengthBytes - cutSectors * 512 });
      const kept = pagesOf(await dropKnownZeros(changes, { base, access: nodes.access }));
      const named = pagesOf(changes);
      for (let at = 0; at < windowCount * windowPages; at++) {
        const window = Math.floor(at / windowPages);
        const first = window * windowPages;
        const isWhole = Array.from({ length: windowPages }, (_, n) => named.get(first + n)).every(
          (kind) => kind === "zero",
        );
        const expected = isWhole && !windows.includes(window) ? undefined : named.get(at);
        // Two zero extents that touch may cover a window together: then it is kept.
        if (expected === undefined && kept.get(at) === "zero") continue;
        assert.equal(kept.get(at), expected, `page ${at}`);
      }
    }),
    { seed: readTestSeed(), numRuns: 200 },
  );
});

test("known zeros: a guest that trims 4 TiB of free space costs what it held there", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(4 * 2 ** 40);
  for (let at = 0; at < 40; at++) disk.write(at * 100 * 2 ** 30, random.bytes(pageBytes));
  const full = await backUp(vault, { itemId: "trim", number: 1, disks: [disk] });
  const [base] = full.manifest.disks;
  assert.ok(base);
  const nodes = new MemoryNodes();
  const trimmed: Extent = { offsetBytes: 0, lengthBytes: disk.sizeBytes, kind: "zero" };
  const empty = { root: undefined, sizeBytes: disk.sizeBytes };
  assert.deepEqual(await dropKnownZeros([trimmed], { base: empty, access: nodes.access }), []);
  disk.zero(2 ** 30, disk.sizeBytes - 2 ** 30);
  await using reader = createMemoryReader(disk);
  await using baseReader = createMemoryReader(full.disks[0] ?? disk);
  const { manifest } = await vault.writePoint({
    point: {
      ...full.manifest,
      pointId: "000000000002-0000000000000000",
      basePointId: full.manifest.pointId,
    },
    disks: [
      {
        name: "disk0",
        reader,
        tracking: "snapshot-difference",
        increment: {
          base: { disk: base, reader: baseReader },
          changes: [{ offsetBytes: 2 ** 30, lengthBytes: disk.sizeBytes - 2 ** 30, kind: "zero" }],
        },
      },
    ],
  });
  assert.ok(manifest.disks[0]);
  assert.equal(manifest.disks[0].changedBytes, 39 * windowBytes);
  assert.equal(manifest.disks[0].mappedBytes, windowBytes);
  await using restored = vault.openDisk(manifest.disks[0]);
  for (const offsetBytes of [0, 100 * 2 ** 30]) {
    const [actual, expected] = [new Uint8Array(pageBytes), new Uint8Array(pageBytes)];
    await restored.read(offsetBytes, actual);
    disk.read(offsetBytes, expected);
    assert.deepEqual(actual, expected);
  }
});
