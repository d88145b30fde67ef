// Goal: what a worker seals opens again to the very blocks that were wanted, under the numbers it
// was given; whatever fails is an answer, and the worker goes on. No thread is needed for that.
import assert from "node:assert/strict";
import { test } from "node:test";

import { asBuffer, bytesEqual } from "#base/bytes.ts";
import { parseFrameHeader } from "#formats/container.ts";
import { idBytes, windowBytes } from "#formats/geometry.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { openFetchedFrame, sealOf } from "#vault/container/container-reader.ts";
import { checksumBytes, computeId, computeWindowChecksum } from "#vault/hashing.ts";
import { segmentBufferBytes } from "#vault/limits.ts";
import type { FrameTicket, SealedFrame } from "#vault/pack/pack-builder.ts";
import type { Posted, WorkerAnswer, WorkerTask } from "./messages.ts";
import { SealWorker } from "./seal-worker.ts";

const random = createSeededRandom("seal worker");
const windows = 16;

class Bench {
  readonly posted: Posted[] = [];
  readonly worker: SealWorker;

  constructor(verify = true) {
    this.worker = new SealWorker({ keys: testKeys, verify }, (posted) => this.posted.push(posted));
  }

  /** Hands over a task and takes its one answer, with what is transferred. */
  ask<Kind extends WorkerAnswer["kind"]>(
    task: WorkerTask,
    kind: Kind,
  ): Extract<WorkerAnswer, { kind: Kind }> {
    this.worker.handle(task);
    const [posted, ...others] = this.posted.splice(0);
    assert.ok(posted !== undefined && others.length === 0, "one answer for each task");
    const { answer } = posted;
    assert.equal(answer.kind, kind, JSON.stringify(answer));
    assert.equal(answer.task, task.task);
    return answer as Extract<WorkerAnswer, { kind: Kind }>;
  }
}

function fillWindows(): { buffer: ArrayBuffer; bytes: Uint8Array } {
  const buffer = new ArrayBuffer(segmentBufferBytes);
  const bytes = new Uint8Array(buffer);
  for (let window = 0; window < windows; window++) {
    const target = bytes.subarray(window * windowBytes, (window + 1) * windowBytes);
    if (window % 4 === 1) target.fill(window);
    else if (window % 4 !== 2) target.set(random.bytes(windowBytes));
  }
  return { buffer, bytes };
}

const ticket: FrameTicket = { epoch: 1, salt: random.bytes(32), firstFrame: 70 };

/** Opens sealed frames that lie one after the other; calls back with each block. */
function openFrames(
  bytes: Uint8Array,
  frames: readonly SealedFrame[],
  onBlock: (id: Uint8Array, content: Uint8Array) => void,
): void {
  const seal = sealOf(testKeys, { type: "pack", ...ticket });
  let at = 0;
  for (const [number, frame] of frames.entries()) {
    const sealed = bytes.subarray(at, at + frame.sealedBytes);
    at += frame.sealedBytes;
    assert.equal(parseFrameHeader(sealed, 0, "pack").frame, ticket.firstFrame + number);
    const plain = openFetchedFrame(seal, sealed, frame, "pack");
    for (const { id, offsetBytes, lengthBytes } of frame.blocks) {
      onBlock(id, plain.subarray(offsetBytes, offsetBytes + lengthBytes));
    }
  }
}

test("seal worker: scans windows, and seals those that are wanted", () => {
  for (const verify of [true, false]) {
    const bench = new Bench(verify);
    const { buffer, bytes } = fillWindows();
    const original = bytes.slice();
    const scan = bench.ask(
      { kind: "scan-windows", task: 5, buffer, windows, ids: true },
      "windows-scanned",
    );
    const contents = new Map<string, Uint8Array>();
    for (let window = 0; window < windows; window++) {
      const content = original.subarray(window * windowBytes, (window + 1) * windowBytes);
      const isZero = content.every((byte) => byte === 0);
      assert.equal(scan.zero[window], isZero ? 1 : 0);
      if (isZero) continue;
      const id = scan.ids.subarray(window * idBytes, (window + 1) * idBytes);
      assert.ok(bytesEqual(id, computeId(testKeys.blockIdKey, content)));
      const sum = scan.checksums.subarray(window * checksumBytes, (window + 1) * checksumBytes);
      assert.ok(bytesEqual(sum, computeWindowChecksum(testKeys.checksumKey, content)));
      contents.set(asBuffer(id).toString("hex"), content);
    }
    // Zero windows are asked for too, and not sealed.
    const wanted = Uint8Array.from({ length: windows }, (_, window) => (window % 3 === 0 ? 0 : 1));
    const stored = bench.ask({ kind: "store", task: 5, wanted, ticket }, "stored");
    assert.equal(stored.buffer, buffer);
    let blocks = 0;
    openFrames(bytes, stored.frames, (id, content) => {
      const expected = contents.get(asBuffer(id).toString("hex"));
      assert.ok(expected !== undefined && bytesEqual(content, expected));
      blocks++;
    });
    const expected = [...wanted].filter((want, at) => want === 1 && scan.zero[at] === 0).length;
    assert.equal(blocks, expected);
  }
});

test("seal worker: checksums alone need no ids, and a segment can be given back unsealed", () => {
  const bench = new Bench();
  const { buffer } = fillWindows();
  const scan = bench.ask(
    { kind: "scan-windows", task: 1, buffer, windows, ids: false },
    "windows-scanned",
  );
  assert.equal(scan.ids.byteLength, 0);
  const released = bench.ask({ kind: "release", task: 1 }, "stored");
  assert.deepEqual([released.buffer, released.frames.length], [buffer, 0]);
});

test("seal worker: an error is an answer, and the next task is done", () => {
  const bench = new Bench();
  const failed = bench.ask({ kind: "release", task: 9 }, "failed");
  assert.equal(failed.error.code, "Internal");
  const { buffer } = fillWindows();
  bench.ask({ kind: "scan-windows", task: 10, buffer, windows: 17, ids: true }, "failed");
  bench.ask({ kind: "scan-windows", task: 11, buffer, windows: 2, ids: true }, "windows-scanned");
  const unknown = { ...ticket, epoch: 7 };
  const store = {
    kind: "store",
    task: 11,
    wanted: new Uint8Array([1, 1]),
    ticket: unknown,
  } as const;
  assert.equal(bench.ask(store, "failed").error.code, "KeyWrong");
  bench.ask({ ...store, ticket }, "failed");
});

test("seal worker: memory that changes after it was hashed is noticed before anything is put", () => {
  const bench = new Bench();
  const { buffer, bytes } = fillWindows();
  bench.ask({ kind: "scan-windows", task: 1, buffer, windows: 4, ids: true }, "windows-scanned");
  bytes[windowBytes + 5]! ^= 1;
  const wanted = new Uint8Array([1, 1, 1, 1]);
  const failed = bench.ask({ kind: "store", task: 1, wanted, ticket }, "failed");
  assert.equal(failed.error.code, "ObjectCorrupt");
  assert.match(failed.error.message, /memory/);
});
