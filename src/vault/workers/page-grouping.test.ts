// Goal: each page is told to be same, zero or stored; stored pages are found again in blocks of one
// region, and checksums follow. Method: random segments against the two disks they came from.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { bytesEqual } from "#base/bytes.ts";
import { idBytes, pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom, readTestSeed } from "#testing/seeded-random.ts";
import {
  checksumBytes,
  computeId,
  computeWindowChecksum,
  xorChecksums,
  zeroWindowChecksum,
} from "#vault/hashing.ts";
import { segmentBytes, segmentPages } from "#vault/limits.ts";
import { pageStates, type ScanPagesTask } from "./messages.ts";
import { type Candidate, scanPages } from "./page-grouping.ts";

const random = createSeededRandom("page grouping");
const oldOffsetBytes = segmentBytes / 2;

/** What happens to a page that is named as changed. */
type Fate = "same" | "same zero" | "new" | "one bit" | "zeroed" | "was zero" | "twin";

interface TouchedPage {
  readonly page: number;
  readonly fate: Fate;
}

/** Windows with their region and the pages that are named. */
interface Case {
  readonly windows: readonly { readonly region: number; readonly pages: readonly TouchedPage[] }[];
}

const fate = fc.constantFrom<Fate>(
  ...(["same", "same zero", "new", "new", "new", "one bit", "zeroed", "was zero", "twin"] as const),
);
const touched = fc
  .uniqueArray(fc.nat(windowPages - 1), { minLength: 1, maxLength: windowPages })
  .chain((pages) =>
    fc.tuple(
      ...pages.sort((a, b) => a - b).map((page) => fc.record({ page: fc.constant(page), fate })),
    ),
  );
const segment: fc.Arbitrary<Case> = fc
  .array(fc.record({ region: fc.nat(1), pages: touched }), { minLength: 1, maxLength: 12 })
  .map((windows) => {
    let region = 0;
    let room = segmentPages;
    return {
      // Regions ascend, and a segment has a most number of pages.
      windows: windows
        .filter(({ pages }) => (room -= pages.length) >= 0)
        .map((window) => ({ region: (region += window.region), pages: window.pages })),
    };
  });

const twin = random.bytes(pageBytes);

const zeros = new Uint8Array(pageBytes);

function withOneBitTurned(page: Uint8Array): Uint8Array {
  const turned = page.slice();
  turned[random.integer(0, pageBytes - 1)]! ^= 1 << random.integer(0, 7);
  return turned;
}

/** New content of a page of each fate, from its old content. */
const fates: Readonly<Record<Fate, (old: Uint8Array) => Uint8Array>> = {
  same: (old) => old,
  "same zero": () => zeros,
  zeroed: () => zeros,
  "was zero": () => random.bytes(pageBytes),
  "one bit": withOneBitTurned,
  twin: () => twin,
  new: () => random.bytes(pageBytes),
};

function contentOf(fate: Fate): { old: Uint8Array; fresh: Uint8Array } {
  const wasZero = fate === "same zero" || fate === "was zero";
  const old = wasZero ? zeros : random.bytes(pageBytes);
  return { old, fresh: fates[fate](old) };
}

interface Laid {
  readonly task: ScanPagesTask;
  /** Old and new content of each slot. */
  readonly pages: readonly { readonly old: Uint8Array; readonly fresh: Uint8Array }[];
}

function layOut({ windows }: Case): Laid {
  const buffer = new ArrayBuffer(segmentBytes);
  const bytes = new Uint8Array(buffer);
  const pages = windows.flatMap((window) => window.pages.map((page) => contentOf(page.fate)));
  for (const [slot, { old, fresh }] of pages.entries()) {
    bytes.set(fresh, slot * pageBytes);
    bytes.set(old, oldOffsetBytes + slot * pageBytes);
  }
  let start = 0;
  const windowStarts = windows.map(
    (window) => (start += window.pages.length) - window.pages.length,
  );
  const task: ScanPagesTask = {
    kind: "scan-pages",
    task: 1,
    buffer,
    oldOffsetBytes,
    pageInWindow: Uint8Array.from(
      windows.flatMap((window) => window.pages.map(({ page }) => page)),
    ),
    windowStarts: Uint32Array.from(windowStarts),
    windowRegions: Uint32Array.from(windows.map(({ region }) => region)),
  };
  return { task, pages };
}

/** Asserts that ids and lengths belong to the content, and blocks lie together at the front. */
function assertBlocks(candidates: readonly Candidate[], ids: Uint8Array, bytes: Uint8Array): void {
  let end = 0;
  for (const [at, { id, offsetBytes, lengthBytes }] of candidates.entries()) {
    assert.equal(offsetBytes, end);
    end += lengthBytes;
    assert.ok(lengthBytes > 0 && lengthBytes <= windowBytes && lengthBytes % pageBytes === 0);
    const content = bytes.subarray(offsetBytes, end);
    assert.ok(bytesEqual(id, computeId(testKeys.blockIdKey, content)));
    assert.ok(bytesEqual(id, ids.subarray(at * idBytes, (at + 1) * idBytes)));
  }
}

function checksumOf(pages: readonly (readonly [number, Uint8Array])[]): Uint8Array {
  const window = new Uint8Array(windowBytes);
  for (const [page, content] of pages) window.set(content, page * pageBytes);
  return computeWindowChecksum(testKeys.checksumKey, window);
}

test("page grouping: tells what became of each page and finds it again in its block", () => {
  let stored = 0;
  fc.assert(
    fc.property(segment, (value) => {
      const { task, pages } = layOut(value);
      const { scan, candidates } = scanPages(task, testKeys);
      const bytes = new Uint8Array(task.buffer);
      assertBlocks(candidates, scan.blockIds, bytes);
      assert.deepEqual(
        [...scan.blockBytes],
        candidates.map(({ lengthBytes }) => lengthBytes),
      );
      const regionOfBlock = new Map<number, number>();
      let slot = 0;
      for (const [at, window] of value.windows.entries()) {
        const [before, now]: (readonly [number, Uint8Array])[][] = [[], []];
        for (const { page } of window.pages) {
          const { old, fresh } = pages[slot] as { old: Uint8Array; fresh: Uint8Array };
          before?.push([page, old]);
          now?.push([page, fresh]);
          const isZero = fresh.every((byte) => byte === 0);
          const changed = isZero ? pageStates.zero : pageStates.stored;
          const state = bytesEqual(old, fresh) ? pageStates.same : changed;
          assert.equal(scan.states[slot], state);
          if (state === pageStates.stored) {
            stored++;
            const block = scan.blocks[slot] as number;
            const start = (candidates[block] as Candidate).offsetBytes;
            const place = start + (scan.pageInBlock[slot] as number) * pageBytes;
            assert.ok(bytesEqual(bytes.subarray(place, place + pageBytes), fresh));
            assert.equal(regionOfBlock.get(block) ?? window.region, window.region);
            regionOfBlock.set(block, window.region);
          }
          slot++;
        }
        const delta = scan.checksumDeltas.subarray(at * checksumBytes, (at + 1) * checksumBytes);
        const updated = xorChecksums(checksumOf(before ?? []), delta);
        assert.ok(bytesEqual(updated, checksumOf(now ?? [])), `checksum of window ${at}`);
      }
      assert.equal(regionOfBlock.size, candidates.length, "no block without a page");
    }),
    { seed: readTestSeed(), numRuns: process.env["KLUIS_LONG"] === "1" ? 3000 : 120 },
  );
  console.log(`${stored} stored pages`);
});

test("page grouping: blocks are as large as they may be", () => {
  const pages = Array.from({ length: windowPages }, (_, page) => ({ page, fate: "new" as const }));
  const windows = Array.from({ length: segmentPages / windowPages }, (_, at) => ({
    region: at < 3 ? 0 : 1,
    pages,
  }));
  const { task } = layOut({ windows });
  const { candidates } = scanPages(task, testKeys);
  assert.deepEqual(
    candidates.map(({ lengthBytes }) => lengthBytes),
    windows.map(() => windowBytes),
  );
});

test("page grouping: a segment without a difference has no blocks and zero deltas", () => {
  const windows = [{ region: 0, pages: [{ page: 3, fate: "same" as const }] }];
  const { scan, candidates } = scanPages(layOut({ windows }).task, testKeys);
  assert.equal(candidates.length, 0);
  assert.ok(scan.checksumDeltas.every((byte) => byte === 0));
  assert.equal(zeroWindowChecksum(testKeys.checksumKey).length, checksumBytes);
});
