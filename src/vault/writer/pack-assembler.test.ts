// Goal: whatever order threads come back in, each block lies once in a pack that opens by its own
// footer; packs and what waits for them are bounded. Method: seal by hand under the tickets.
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesEqual, concatBytes, toHex } from "#base/bytes.ts";
import { frameOverheadBytes } from "#formats/container.ts";
import { frameBytesMax, packBytesTarget, windowBytes } from "#formats/geometry.ts";
import { fromIndexColumns, parsePackFooter } from "#formats/index-segment.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { openContainer, sealOf } from "#vault/container/container-reader.ts";
import { sealFrame } from "#vault/container/frame.ts";
import { computeId, computeName } from "#vault/hashing.ts";
import { objectBytesMax, packBuffers, packEntriesMax } from "#vault/limits.ts";
import type { FrameTicket, SealedFrame } from "#vault/pack/pack-builder.ts";
import { type FinishedPack, PackAssembler, type SegmentTicket } from "./pack-assembler.ts";

const random = createSeededRandom("pack assembler");

/** Seals blocks, one frame for every `blocksPerFrame`, as a worker does. */
function sealBlocks(
  ticket: FrameTicket,
  blocks: readonly Uint8Array[],
  blocksPerFrame: number,
): { bytes: Uint8Array; frames: SealedFrame[] } {
  const seal = sealOf(testKeys, { type: "pack", ...ticket });
  const frames: SealedFrame[] = [];
  const sealed: Uint8Array[] = [];
  for (let at = 0; at < blocks.length; at += blocksPerFrame) {
    const inFrame = blocks.slice(at, at + blocksPerFrame);
    const plain = concatBytes(inFrame);
    let offsetBytes = 0;
    const placed = inFrame.map((block) => {
      const id = computeId(testKeys.blockIdKey, block);
      offsetBytes += block.byteLength;
      return { id, offsetBytes: offsetBytes - block.byteLength, lengthBytes: block.byteLength };
    });
    const target = new Uint8Array(plain.byteLength + frameOverheadBytes);
    const frame = ticket.firstFrame + frames.length;
    const options = { frame, kind: "content", compress: true } as const;
    const header = sealFrame(seal, plain, options, { target, at: 0 });
    const sealedBytes = header.sealedBytes + frameOverheadBytes;
    sealed.push(target.subarray(0, sealedBytes));
    frames.push({ sealedBytes, plainBytes: plain.byteLength, codec: header.codec, blocks: placed });
  }
  return { bytes: concatBytes(sealed), frames };
}

/** Collects packs, checks each alone, and notes their blocks. */
class Shelf {
  readonly packs: FinishedPack[] = [];
  readonly blocks = new Map<string, number>();
  held: FinishedPack[] = [];
  readonly assembler: PackAssembler;

  constructor(signal = new AbortController().signal) {
    const onPack = (pack: FinishedPack): void => this.#take(pack);
    this.assembler = new PackAssembler({ keys: testKeys, random, signal, onPack });
  }

  release(): void {
    for (const pack of this.held.splice(0)) pack.release();
  }

  #take(pack: FinishedPack): void {
    const sha256 = computeName(pack.bytes);
    const name = toHex(sha256);
    assert.ok(pack.bytes.byteLength <= objectBytesMax, `${pack.bytes.byteLength} bytes`);
    assert.ok(pack.table.entries.length <= packEntriesMax, `${pack.table.entries.length} entries`);
    const opened = openContainer(testKeys, { name, bytes: pack.bytes, type: "pack" });
    const table = fromIndexColumns(parsePackFooter(opened.footer, sha256));
    assert.deepEqual(table.entries.length, pack.table.entries.length);
    const starts: number[] = [];
    let end = 0;
    for (const { plainBytes } of table.frames) {
      starts.push(end);
      end += plainBytes;
    }
    for (const { id, frame, offsetBytes, lengthBytes } of table.entries) {
      const start = (starts[frame] ?? 0) + offsetBytes;
      const content = opened.content.subarray(start, start + lengthBytes);
      assert.ok(bytesEqual(computeId(testKeys.blockIdKey, content), id));
      this.blocks.set(toHex(id), (this.blocks.get(toHex(id)) ?? 0) + 1);
    }
    this.packs.push(pack);
    this.held.push(pack);
  }
}

test("pack assembler: blocks that come back in any order lie in full packs, each once", async () => {
  const shelf = new Shelf();
  const { assembler } = shelf;
  const out: { ticket: SegmentTicket; blocks: Uint8Array[] }[] = [];
  let blocks = 0;
  async function giveBack(): Promise<void> {
    const at = random.integer(0, out.length - 1);
    const [segment] = out.splice(at, 1);
    if (segment === undefined) return;
    if (random.chance(0.05)) {
      assembler.abandon(segment.ticket);
      return;
    }
    const { bytes, frames } = sealBlocks(segment.ticket, segment.blocks, 4);
    blocks += segment.blocks.length;
    assembler.deliver(segment.ticket, bytes, frames);
    shelf.release();
  }
  for (let segment = 0; segment < 40; segment++) {
    const list = Array.from({ length: random.integer(1, 16) }, () => random.bytes(windowBytes));
    const taking = assembler.take(list.length, list.length * windowBytes);
    const turn = (): Promise<undefined> =>
      new Promise((resolve) => setImmediate(resolve, undefined));
    let ticket = await Promise.race([taking, turn()]);
    for (; ticket === undefined; ticket = await Promise.race([taking, turn()])) await giveBack();
    out.push({ ticket, blocks: list });
    if (out.length >= 6) await giveBack();
  }
  while (out.length > 0) await giveBack();
  await assembler.flush();
  assert.equal(shelf.blocks.size, blocks);
  for (const times of shelf.blocks.values()) assert.equal(times, 1);
  for (const { bytes } of shelf.packs.slice(0, -1)) {
    assert.ok(bytes.byteLength > packBytesTarget - 7 * 4 * frameBytesMax, "packs are full");
  }
  assert.ok(shelf.packs.length > 1);
});

test("pack assembler: content that compresses well closes a pack by its blocks", async () => {
  const shelf = new Shelf();
  for (let segment = 0; segment * 512 < 2.5 * packEntriesMax; segment++) {
    const list = Array.from({ length: 512 }, (_, at) => {
      const page = new Uint8Array(4096).fill(1);
      new DataView(page.buffer).setUint32(0, segment * 512 + at);
      return page;
    });
    const ticket = await shelf.assembler.take(list.length, list.length * 4096);
    const { bytes, frames } = sealBlocks(ticket, list, 64);
    shelf.assembler.deliver(ticket, bytes, frames);
    shelf.release();
  }
  await shelf.assembler.flush();
  assert.equal(shelf.packs.length, 3);
});

test("pack assembler: waits for a buffer when all packs are on their way", async () => {
  const shelf = new Shelf();
  const { assembler } = shelf;
  for (let pack = 0; pack < packBuffers; pack++) {
    const ticket = await assembler.take(1, 10);
    const { bytes, frames } = sealBlocks(ticket, [random.bytes(10)], 1);
    assembler.deliver(ticket, bytes, frames);
    await assembler.flush();
  }
  let isGiven = false;
  const waiting = assembler.take(1, 10).then((ticket) => {
    isGiven = true;
    return ticket;
  });
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  assert.equal(isGiven, false);
  shelf.release();
  assembler.abandon(await waiting);
  await assembler.flush();
  assert.equal(shelf.packs.length, packBuffers, "a pack of nothing is none");
});

test("pack assembler: who waits for a buffer stops waiting when the session fails", async () => {
  const controller = new AbortController();
  const shelf = new Shelf(controller.signal);
  for (let pack = 0; pack < packBuffers; pack++) {
    const ticket = await shelf.assembler.take(1, 10);
    const { bytes, frames } = sealBlocks(ticket, [random.bytes(10)], 1);
    shelf.assembler.deliver(ticket, bytes, frames);
    await shelf.assembler.flush();
  }
  const waiting = shelf.assembler.take(1, 10);
  controller.abort(new Error("no space"));
  await assert.rejects(waiting, /no space/);
});

test("pack assembler: no two tickets of a pack share a frame number", async () => {
  const shelf = new Shelf();
  const numbers = new Set<string>();
  const tickets: SegmentTicket[] = [];
  for (let at = 0; at < 30; at++) {
    const blocks = random.integer(1, 16);
    const ticket = await shelf.assembler.take(blocks, blocks * 4096);
    tickets.push(ticket);
    for (let frame = 0; frame < blocks; frame++) {
      const key = `${toHex(ticket.salt)} ${ticket.firstFrame + frame}`;
      assert.ok(!numbers.has(key));
      numbers.add(key);
    }
  }
  for (const ticket of tickets) shelf.assembler.abandon(ticket);
  await shelf.assembler.flush();
});
