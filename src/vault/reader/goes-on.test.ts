// Goal: a frame is kept if the next part of the disk is likely to want it too, and only then.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pageBytes } from "#formats/geometry.ts";
import type { NeededFrame } from "#vault/reader/frame-run.ts";
import { goesOn } from "./goes-on.ts";

const targetPages = 1000;

/** A frame of one block of 64 pages, of which each of these goes to that page of the target. */
function frameOf(pages: readonly (readonly [page: number, target: number])[]): NeededFrame {
  const location = {
    pack: { type: "pack", name: new Uint8Array(32), epoch: 1, salt: new Uint8Array(32) },
    frame: 0,
    frameOffsetBytes: 64,
    frameSealedBytes: 64 * pageBytes + 32,
    framePlainBytes: 64 * pageBytes,
    codec: "stored",
    offsetBytes: 0,
    lengthBytes: 64 * pageBytes,
  } as const;
  const pieces = pages.map(([page, target]) => ({
    offsetBytes: page * pageBytes,
    lengthBytes: pageBytes,
    targetOffset: target * pageBytes,
  }));
  return { location, blocks: [{ id: new Uint8Array(24), location, pieces }] };
}

function isKept(...pages: readonly (readonly [number, number])[]): boolean {
  return goesOn(frameOf(pages), targetPages * pageBytes);
}

/** Pages from `first` on, `distance` apart in the target, up to `end` there. */
function spread(first: number, distance: number, end: number): [number, number][] {
  const count = Math.floor((end - first) / distance);
  return Array.from({ length: Math.min(count, 64) }, (_, at) => [at, first + at * distance]);
}

test("goes on: pages that come as far as the target's end, as their distances are", () => {
  assert.ok(isKept(...spread(600, 10, 1000)));
  assert.ok(isKept(...spread(600, 10, 980)));
  assert.ok(!isKept(...spread(600, 10, 900)), "later pages would be nearer");
  assert.ok(
    !isKept(...spread(100, 1, 140)),
    "a window of a full backup, partly written over since",
  );
});

test("goes on: nothing behind the frame's last page", () => {
  assert.ok(!isKept(...spread(360, 10, 1000)));
  assert.ok(!isKept([63, 999]));
});

test("goes on: of a single page nothing is known, so it may", () => {
  assert.ok(isKept([0, 3]));
  assert.ok(isKept([5, 999]));
});
