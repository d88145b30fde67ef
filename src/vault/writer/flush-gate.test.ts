// Goal: a flush is never beside a segment or another flush, and nobody waits for ever.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createSeededRandom } from "#testing/seeded-random.ts";
import { FlushGate } from "./flush-gate.ts";

/** Lets everything that can go on do so. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
}

test("flush gate: a flush waits for all who entered and keeps others out", async () => {
  const gate = new FlushGate();
  const order: string[] = [];
  await gate.enter();
  await gate.enter();
  const flush = gate.alone(async () => {
    order.push("flush starts");
    await settle();
    order.push("flush ends");
  });
  const late = gate.enter().then(() => order.push("late enters"));
  await settle();
  gate.leave();
  await settle();
  assert.deepEqual(order, []);
  gate.leave();
  await Promise.all([flush, late]);
  assert.deepEqual(order, ["flush starts", "flush ends", "late enters"]);
});

test("flush gate: a flush that fails lets the others go on", async () => {
  const gate = new FlushGate();
  await assert.rejects(
    gate.alone(() => Promise.reject(new Error("no space"))),
    /no space/,
  );
  await gate.enter();
  gate.leave();
  await gate.alone(() => Promise.resolve());
});

test("flush gate: any crowd of segments and flushes keeps to the rule and comes to an end", async () => {
  const random = createSeededRandom("gate");
  const gate = new FlushGate();
  const now = { inside: 0, flushing: 0, most: 0 };
  async function spend(): Promise<void> {
    for (let turns = random.integer(0, 4); turns > 0; turns--) await new Promise(setImmediate);
  }
  async function segment(): Promise<void> {
    await spend();
    await gate.enter();
    now.most = Math.max(now.most, ++now.inside);
    assert.equal(now.flushing, 0);
    await spend();
    assert.equal(now.flushing, 0);
    now.inside--;
    gate.leave();
  }
  async function flush(): Promise<void> {
    await spend();
    const fails = random.chance(0.2);
    const work = gate.alone(async () => {
      assert.deepEqual([now.inside, now.flushing++], [0, 0]);
      await spend();
      assert.deepEqual([now.inside, --now.flushing], [0, 0]);
      if (fails) throw new Error("failed");
    });
    if (fails) await assert.rejects(work, /failed/);
    else await work;
  }
  const crowd = Array.from({ length: 600 }, () => (random.chance(0.2) ? flush() : segment()));
  await Promise.all(crowd);
  assert.ok(now.most > 1, "segments did work side by side");
});
