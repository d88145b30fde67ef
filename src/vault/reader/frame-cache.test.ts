// Goal: a held frame keeps its bytes, memory stays within the budget, who came first is served
// first, and errors cost nothing but themselves.
import assert from "node:assert/strict";
import { test } from "node:test";

import { frameBytesMax } from "#formats/geometry.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { pageFrameBytesMax } from "#vault/limits.ts";
import { FrameCache, type OpenedFrame } from "./frame-cache.ts";

/** Fills a buffer with a number that belongs to the frame. */
async function fill(buffer: ArrayBuffer, plainBytes: number, value: number): Promise<OpenedFrame> {
  await new Promise(setImmediate);
  // The buffer travels to a worker and back.
  const plain = new Uint8Array(buffer.transfer(), 0, plainBytes).fill(value);
  return { plain, checked: new Set() };
}

test("frame cache: takes away the frame that was not used for longest, and no held one", async () => {
  const cache = new FrameCache(2 * frameBytesMax);
  await cache.add("a", frameBytesMax, (buffer) => fill(buffer, frameBytesMax, 1));
  await cache.add("b", frameBytesMax, (buffer) => fill(buffer, frameBytesMax, 2));
  const held = cache.hold("a");
  await cache.add("c", frameBytesMax, (buffer) => fill(buffer, frameBytesMax, 3));
  assert.deepEqual(
    ["a", "b", "c"].map((key) => cache.has(key)),
    [true, false, true],
  );
  assert.equal((await held.opened).plain[frameBytesMax - 1], 1);
  const waits = cache.hold("c");
  const late = cache.add("d", frameBytesMax, (buffer) => fill(buffer, frameBytesMax, 4));
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  assert.equal((await held.opened).plain[0], 1, "all are held: the new one waits");
  held.release();
  await late;
  assert.deepEqual(
    ["a", "c", "d"].map((key) => cache.has(key)),
    [false, true, true],
  );
  waits.release();
});

test("frame cache: an error goes to those who hold the frame, and it can be added again", async () => {
  const cache = new FrameCache(frameBytesMax);
  const added = cache.add("a", 100, () => Promise.reject(new Error("broken")));
  const held = [cache.hold("a"), cache.hold("a")];
  await added;
  for (const frame of held) {
    await assert.rejects(frame.opened, /broken/);
    frame.release();
  }
  assert.equal(cache.has("a"), false);
  await cache.add("a", 100, (buffer) => fill(buffer, 100, 5));
  assert.equal((await cache.hold("a").opened).plain[99], 5);
});

test("frame cache: nobody overtakes a frame that waits for room", async () => {
  const cache = new FrameCache(frameBytesMax);
  const order: string[] = [];
  const add = (key: string, plainBytes: number): Promise<void> =>
    cache.add(key, plainBytes, (buffer) => {
      order.push(key);
      return fill(buffer, plainBytes, 1);
    });
  await add("first", frameBytesMax);
  const held = cache.hold("first");
  const waiting = [add("large", frameBytesMax), add("small", 1000)];
  held.release();
  // Comes in the very moment in which there is room.
  waiting.push(add("late", frameBytesMax));
  await Promise.all(waiting);
  assert.deepEqual(order, ["first", "large", "small", "late"]);
});

test("frame cache: any use keeps held bytes as they were, within the budget", async () => {
  const random = createSeededRandom("frame cache");
  const budget = 3 * frameBytesMax + pageFrameBytesMax;
  const cache = new FrameCache(budget);
  let inUse = 0;
  let most = 0;
  async function use(): Promise<void> {
    const frame = random.integer(0, 30);
    const key = `frame ${frame}`;
    const plainBytes = frame % 3 === 0 ? 5000 : frameBytesMax - frame;
    if (!cache.has(key)) {
      const fails = random.chance(0.1);
      void cache.add(key, plainBytes, async (buffer) => {
        inUse += buffer.byteLength;
        most = Math.max(most, inUse);
        const opened = await fill(buffer, plainBytes, frame);
        inUse -= opened.plain.buffer.byteLength;
        if (fails) throw new Error("broken");
        return opened;
      });
    }
    const held = cache.hold(key);
    try {
      const { plain } = await held.opened;
      for (let turns = random.integer(0, 3); turns > 0; turns--) await new Promise(setImmediate);
      assert.equal(plain.byteLength, plainBytes);
      assert.ok(plain[0] === frame && plain[plainBytes - 1] === frame, `bytes of ${key}`);
    } catch (error) {
      assert.match(String(error), /broken/);
    } finally {
      held.release();
    }
  }
  const lanes = Array.from({ length: 12 }, async () => {
    for (let round = 0; round < 100; round++) await use();
  });
  await Promise.all(lanes);
  assert.ok(most <= budget, `${most} bytes are being filled`);
});
