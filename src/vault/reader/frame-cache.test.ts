// Goal: a held frame keeps its bytes, memory stays within the budget, who came first is served
// first, and errors cost nothing but themselves.
import assert from "node:assert/strict";
import { test } from "node:test";

import { frameBytesMax } from "#formats/geometry.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { FrameCache } from "./frame-cache.ts";

/** Fills places with a number that belongs to their frame, a little later, as a worker does. */
async function fill(places: readonly Uint8Array[], value: number): Promise<Set<number>[]> {
  await new Promise(setImmediate);
  for (const place of places) place.fill(value);
  return places.map(() => new Set());
}

/** Adds a frame by itself. */
function add(cache: FrameCache, key: string, value: number, plainBytes = frameBytesMax) {
  return cache.add([{ key, plainBytes }], (places) => fill(places, value));
}

test("frame cache: takes away what was not used for longest, and nothing that is held", async () => {
  const cache = new FrameCache(2 * frameBytesMax);
  await add(cache, "a", 1);
  await add(cache, "b", 2);
  const held = cache.hold("a");
  await add(cache, "c", 3);
  assert.deepEqual(
    ["a", "b", "c"].map((key) => cache.has(key)),
    [true, false, true],
  );
  assert.equal((await held.opened).plain[frameBytesMax - 1], 1);
  const waits = cache.hold("c");
  const late = add(cache, "d", 4);
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

test("frame cache: small frames share a unit, where one that is held keeps the others", async () => {
  const cache = new FrameCache(2 * frameBytesMax);
  const small = frameBytesMax / 16;
  const frames = Array.from({ length: 16 }, (_, at) => ({ key: `s${at}`, plainBytes: small - at }));
  await cache.add(frames, async (places) => {
    assert.deepEqual(
      places.map(({ byteLength }) => byteLength),
      frames.map(({ plainBytes }) => plainBytes),
    );
    return await fill(places, 7);
  });
  const held = cache.hold("s3");
  await add(cache, "large", 1);
  await add(cache, "larger", 2);
  assert.deepEqual([cache.has("s0"), cache.has("large")], [true, false]);
  assert.ok((await held.opened).plain.every((byte) => byte === 7));
  held.release();
});

test("frame cache: an error goes to those who hold the frame, and it can be added again", async () => {
  const cache = new FrameCache(frameBytesMax);
  const two = [
    { key: "a", plainBytes: 100 },
    { key: "b", plainBytes: 100 },
  ];
  const added = cache.add(two, async () => [new Error("broken"), new Set()]);
  const held = [cache.hold("a"), cache.hold("a")];
  await added;
  for (const frame of held) {
    await assert.rejects(frame.opened, /broken/);
    frame.release();
  }
  assert.deepEqual([cache.has("a"), cache.has("b")], [false, true]);
  await add(cache, "a", 5, 100);
  assert.equal((await cache.hold("a").opened).plain[99], 5);
});

test("frame cache: what opens nothing fails all of its frames, and they are forgotten", async () => {
  const cache = new FrameCache(frameBytesMax);
  const keys = ["a", "b"];
  const added = cache.add(
    keys.map((key) => ({ key, plainBytes: 100 })),
    () => Promise.reject(new Error("no bytes came")),
  );
  const held = keys.map((key) => cache.hold(key));
  await added;
  for (const frame of held) {
    await assert.rejects(frame.opened, /no bytes came/);
    frame.release();
  }
  await add(cache, "c", 1);
  assert.deepEqual(
    [...keys, "c"].map((key) => cache.has(key)),
    [false, false, true],
  );
});

test("frame cache: nobody overtakes a frame that waits for room", async () => {
  const cache = new FrameCache(frameBytesMax);
  const order: string[] = [];
  const addNoted = (key: string, plainBytes: number): Promise<void> =>
    cache.add([{ key, plainBytes }], (places) => {
      order.push(key);
      return fill(places, 1);
    });
  await addNoted("first", frameBytesMax);
  const held = cache.hold("first");
  const waiting = [addNoted("large", frameBytesMax), addNoted("small", 1000)];
  held.release();
  // Comes in the very moment in which there is room.
  waiting.push(addNoted("late", frameBytesMax));
  await Promise.all(waiting);
  assert.deepEqual(order, ["first", "large", "small", "late"]);
});

test("frame cache: any use keeps held bytes as they were, within the budget", async () => {
  const random = createSeededRandom("frame cache");
  for (const units of [1, 2, 3, 4, 7]) {
    const cache = new FrameCache(units * frameBytesMax + 1000);
    const memories = new Set<ArrayBufferLike>();
    const bytesOf = (frame: number): number => (frame % 3 === 0 ? 50_000 : 990_000) - frame;
    const addSome = (frames: readonly number[]): void => {
      const fails = random.chance(0.1);
      const toAdd = frames.map((frame) => ({ key: `${frame}`, plainBytes: bytesOf(frame) }));
      void cache.add(toAdd, async (places) => {
        for (const { buffer } of places) memories.add(buffer);
        await new Promise(setImmediate);
        for (const [at, place] of places.entries()) place.fill(frames[at] ?? 0);
        if (fails) throw new Error("broken");
        return places.map(() => new Set<number>());
      });
    };
    const use = async (): Promise<void> => {
      const wanted = [0, 10, 20].map((first) => first + random.integer(0, 9));
      const isThere = (frame: number): boolean => cache.has(`${frame}`);
      const missing = wanted.filter((frame) => !isThere(frame));
      const held = wanted.filter(isThere).map((frame) => ({ frame, hold: cache.hold(`${frame}`) }));
      let run: number[] = [];
      for (const frame of missing) {
        const bytes = [...run, frame].reduce((sum, each) => sum + bytesOf(each), 0);
        if (run.length > 0 && bytes > cache.addBytesMax) {
          addSome(run);
          run = [];
        }
        run.push(frame);
      }
      if (run.length > 0) addSome(run);
      held.push(...missing.map((frame) => ({ frame, hold: cache.hold(`${frame}`) })));
      const uses = held.map(async ({ frame, hold }) => {
        try {
          const { plain } = await hold.opened;
          for (let turns = random.integer(0, 3); turns > 0; turns--) {
            await new Promise(setImmediate);
          }
          assert.equal(plain.byteLength, bytesOf(frame));
          const [first, last] = [plain[0], plain.at(-1)];
          assert.ok(first === frame && last === frame, `bytes of ${frame}`);
        } catch (error) {
          assert.match(String(error), /broken/);
        } finally {
          hold.release();
        }
      });
      await Promise.all(uses);
    };
    const lanes = Array.from({ length: 8 }, async () => {
      for (let round = 0; round < 10; round++) await use();
    });
    await Promise.all(lanes);
    const [memory, ...others] = memories;
    assert.ok(memory !== undefined && others.length === 0, "one memory for all frames");
    assert.ok(memory.byteLength <= units * frameBytesMax + 1000);
  }
});
