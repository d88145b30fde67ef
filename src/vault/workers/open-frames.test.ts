// Goal: frames that were fetched together open into their places, and what is wanted of them is copied;
// blocks that are not what their ids say are told, and a frame that does not open costs the others nothing.
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesEqual } from "#base/bytes.ts";
import { idBytes, pageBytes } from "#formats/geometry.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { sealOf } from "#vault/container/container-reader.ts";
import { sealFrame } from "#vault/container/frame.ts";
import { computeId } from "#vault/hashing.ts";
import { FrameOpener, type FramesToOpen, nowhere } from "./open-frames.ts";

const random = createSeededRandom("open frames");
const pack = { type: "pack", epoch: 1, salt: random.bytes(32) } as const;
const opener = new FrameOpener(testKeys);
const gapBytes = 1000;

interface Sealed {
  readonly task: FramesToOpen;
  readonly plains: readonly Uint8Array[];
  readonly memory: SharedArrayBuffer;
}

/** Frames of so many pages, each block one page, with gaps between them; some are compressed. */
function sealFrames(pages: readonly number[]): Sealed {
  const seal = sealOf(testKeys, pack);
  const buffer = new ArrayBuffer(pages.reduce((sum, count) => sum + count * pageBytes + 2000, 0));
  const plains = pages.map((count, at) =>
    at % 2 === 0 ? random.bytes(count * pageBytes) : new Uint8Array(count * pageBytes).fill(at),
  );
  const [starts, sealedBytes]: [number[], number[]] = [[], []];
  let at = 0;
  for (const [frame, plain] of plains.entries()) {
    const place = { target: new Uint8Array(buffer), at };
    const options = { frame, kind: "content", compress: frame % 2 === 1 } as const;
    const header = sealFrame(seal, plain, options, place);
    starts.push(at);
    sealedBytes.push(header.sealedBytes + 32);
    at += header.sealedBytes + 32 + gapBytes;
  }
  const memory = new SharedArrayBuffer(plains.reduce((sum, plain) => sum + plain.byteLength, 64));
  const blocks = pages.flatMap((count, frame) =>
    Array.from({ length: count }, (_, page) => ({ frame, offsetBytes: page * pageBytes })),
  );
  const ids = new Uint8Array(blocks.length * idBytes);
  for (const [block, { frame, offsetBytes }] of blocks.entries()) {
    const content = plains[frame]?.subarray(offsetBytes, offsetBytes + pageBytes);
    ids.set(computeId(testKeys.blockIdKey, content as Uint8Array), block * idBytes);
  }
  let placed = 64;
  const task: FramesToOpen = {
    buffer,
    packName: "packs/ab",
    epoch: pack.epoch,
    salt: pack.salt,
    startsBytes: Uint32Array.from(starts),
    sealedBytes: Uint32Array.from(sealedBytes),
    plainBytes: Uint32Array.from(plains, ({ byteLength }) => byteLength),
    target: {
      memory,
      atBytes: Uint32Array.from(plains, ({ byteLength }) => (placed += byteLength) - byteLength),
    },
    ids,
    frames: Uint32Array.from(blocks, ({ frame }) => frame),
    offsetsBytes: Uint32Array.from(blocks, ({ offsetBytes }) => offsetBytes),
    lengthsBytes: new Uint32Array(blocks.length).fill(pageBytes),
  };
  return { task, plains, memory };
}

function assertPlaced({ task, plains, memory }: Sealed, frame: number): void {
  const plain = plains[frame] as Uint8Array;
  const at = task.target?.atBytes[frame] ?? 0;
  const placed = new Uint8Array(memory, at, plain.byteLength);
  assert.ok(bytesEqual(new Uint8Array(placed), plain), `frame ${frame}`);
}

test("open frames: all come to their places, also where none of their blocks is needed", () => {
  const sealed = sealFrames([3, 1, 64, 2]);
  const { frames } = sealed.task;
  const end = frames.indexOf(3);
  const task = { ...sealed.task, frames: frames.slice(0, end) };
  assert.deepEqual(opener.open(task), { failures: [], bad: [] });
  for (const frame of [0, 1, 2, 3]) assertPlaced(sealed, frame);
});

test("open frames: blocks that are not what their ids say, or that the frame cannot hold, are told", () => {
  const { task } = sealFrames([2, 3, 1]);
  task.ids[2 * idBytes] = (task.ids[2 * idBytes] ?? 0) ^ 1;
  task.offsetsBytes[5] = pageBytes;
  const { target: _, ...checkOnly } = task;
  assert.deepEqual(opener.open(checkOnly), { failures: [], bad: [2, 5] });
});

test("open frames: one that is damaged leaves its place alone, and the others open", () => {
  const sealed = sealFrames([2, 3, 1]);
  const { task, memory } = sealed;
  const bytes = new Uint8Array(task.buffer);
  const at = (task.startsBytes[1] ?? 0) + 20;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  const { failures, bad } = opener.open(task);
  assert.deepEqual(bad, []);
  assert.deepEqual(
    failures.map(({ frame, error }) => [frame, error.code]),
    [[1, "ObjectCorrupt"]],
  );
  assert.match(failures[0]?.error.message ?? "", /packs\/ab/);
  assertPlaced(sealed, 0);
  assertPlaced(sealed, 2);
  const place = new Uint8Array(memory, task.target?.atBytes[1] ?? 0, 3 * pageBytes);
  assert.ok(place.every((byte) => byte === 0));
});

test("open frames: one that is cut off, or is not of the length that the index names, is told", () => {
  const { task } = sealFrames([2, 2]);
  task.startsBytes[0] = task.buffer.byteLength - 10;
  task.plainBytes[1] = pageBytes;
  const { failures } = opener.open(task);
  assert.deepEqual(
    failures.map(({ frame, error }) => [frame, error.code]),
    [
      [0, "ObjectCorrupt"],
      [1, "ObjectCorrupt"],
    ],
  );
});

/** A task that copies pieces of these frames to a memory of their own, which says where each lies in it. */
function withCopies(
  { task, plains }: Sealed,
  pieces: readonly (readonly [frame: number, from: number, bytes: number])[],
): { readonly task: FramesToOpen; readonly assertCopied: (except?: number) => void } {
  const memory = new SharedArrayBuffer(pieces.reduce((sum, piece) => sum + piece[2] + 10, 0));
  const bytes = new Uint8Array(memory).fill(0xee);
  const expected = bytes.slice();
  const toBytes: number[] = [];
  let at = 5;
  for (const [, , lengthBytes] of pieces) {
    toBytes.push(at);
    at += lengthBytes + 10;
  }
  const column = (of: 0 | 1 | 2): Uint32Array => Uint32Array.from(pieces, (piece) => piece[of]);
  const copies = {
    memory,
    frames: column(0),
    fromBytes: column(1),
    lengthsBytes: column(2),
    toBytes: Uint32Array.from(toBytes),
  };
  const assertCopied = (except?: number): void => {
    for (const [piece, [frame, from, lengthBytes]] of pieces.entries()) {
      if (frame === except) continue;
      expected.set(plains[frame]?.subarray(from, from + lengthBytes) ?? [], toBytes[piece]);
    }
    assert.ok(bytesEqual(bytes, expected));
  };
  return { task: { ...task, copies }, assertCopied };
}

const somePieces = [
  [0, 0, 3 * pageBytes],
  [1, 100, 50],
  [1, 2000, 1],
  [2, pageBytes, 2 * pageBytes],
  [3, 7, 2 * pageBytes - 7],
] as const;

test("open frames: pieces are copied, of a whole frame, of kept ones and of others, and nothing else", () => {
  const sealed = sealFrames([3, 1, 64, 2]);
  const { task, assertCopied } = withCopies(sealed, somePieces);
  for (const frame of [0, 1, 2])
    (task.target as NonNullable<typeof task.target>).atBytes[frame] = nowhere;
  assert.deepEqual(opener.open(task), { failures: [], bad: [] });
  assertCopied();
  assertPlaced(sealed, 3);
  const { task: other } = sealFrames([3, 1, 64, 2]);
  const { target: _, ...unplaced } = other;
  assert.deepEqual(opener.open(unplaced), { failures: [], bad: [] });
});

test("open frames: nothing is copied from a frame with a block that is not what its id says", () => {
  const { task, assertCopied } = withCopies(sealFrames([3, 1, 64, 2]), somePieces);
  const at = task.frames.indexOf(2) + 9;
  task.ids[at * idBytes] = (task.ids[at * idBytes] ?? 0) ^ 1;
  const { target: _, ...unplaced } = task;
  assert.deepEqual(opener.open(unplaced), { failures: [], bad: [at] });
  assertCopied(2);
});
