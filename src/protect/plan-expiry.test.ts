/**
 * Goal: whatever is taken, sent and read in whatever order, the newest snapshot, every base and what is
 * read stay, the rest goes when its days are over, and there is always room for the next one. Method:
 * random days of a VM with two vaults against a model of the rules.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { createSeededRandom } from "#testing/seeded-random.ts";
import { layersMax } from "#ports/hypervisor.ts";
import { type ExpiryFacts, planExpiry, snapshotDays } from "./plan-expiry.ts";

const runs = process.env["KLUIS_LONG"] === "1" ? 5000 : 200;
const hourMs = 3600 * 1000;
const dayMs = 24 * hourMs;

function facts(id: string, takenAtMs: number, more: Partial<ExpiryFacts> = {}): ExpiryFacts {
  return { id, takenAtMs, days: 2, isBase: false, isRead: false, ...more };
}

test("expiry: days are counted from the instant; the newest, bases and what is read stay", () => {
  const snapshots = [
    facts("base", 0, { isBase: true }),
    facts("read", 0, { isRead: true }),
    facts("over", 0),
    facts("unlabelled", 2 * dayMs, { days: undefined }),
    facts("young", 1),
    facts("newest", 0),
  ];
  const plan = planExpiry(snapshots, { nowMs: 2 * dayMs, room: 0 });
  assert.deepEqual(plan, { due: ["over", "unlabelled"], early: [], bases: [] });
});

test("expiry: for room the oldest go early, bases last, the newest and what is read never", () => {
  const snapshots = [
    facts("base", 0, { isBase: true }),
    facts("a", 1),
    facts("read", 2, { isRead: true }),
    facts("b", 3),
    facts("newest", 4),
  ];
  const plan = (room: number) => planExpiry(snapshots, { nowMs: 5, room });
  assert.deepEqual(plan(1), { due: [], early: ["a"], bases: [] });
  assert.deepEqual(plan(2), { due: [], early: ["a", "b"], bases: [] });
  assert.deepEqual(plan(9), { due: [], early: ["a", "b"], bases: ["base"] });
});

/** A VM, its snapshots and the vaults that they are sent to. */
class World {
  readonly random;
  nowMs = 0;
  taken = 0;
  snapshots: ExpiryFacts[] = [];
  readonly bases = new Map<string, string>();
  readonly readers = new Set<string>();

  constructor(seed: string) {
    this.random = createSeededRandom(seed);
  }

  now(): readonly ExpiryFacts[] {
    const bases = new Set(this.bases.values());
    return this.snapshots.map((each) => ({
      ...each,
      isBase: bases.has(each.id),
      isRead: this.readers.has(each.id),
    }));
  }

  expire(room: number): void {
    const before = this.now();
    const plan = planExpiry(before, { nowMs: this.nowMs, room });
    const gone = [...plan.due, ...plan.early, ...plan.bases];
    assert.equal(new Set(gone).size, gone.length, "each goes once");
    for (const each of before) {
      const isGone = gone.includes(each.id);
      const isKept = each.isRead || each.id === before.at(-1)?.id;
      assert.ok(!(isGone && isKept), `${each.id} has to stay`);
      if (isGone && each.isBase) assert.ok(plan.bases.includes(each.id), "a base goes by name");
      const age = this.nowMs - each.takenAtMs;
      if (!each.isBase && !isKept && age >= (each.days ?? 0) * dayMs)
        assert.ok(isGone, "it is due");
    }
    const spare = before.filter(({ id, isRead }) => !gone.includes(id) && !isRead);
    assert.ok(gone.length >= room || spare.length <= 1, "room is made as far as it can be");
    if (room === 0) assert.deepEqual([...plan.early, ...plan.bases], []);
    this.snapshots = this.snapshots.filter(({ id }) => !gone.includes(id));
  }

  step(): void {
    const { random } = this;
    this.nowMs += random.integer(0, 30) * hourMs;
    const what = random.integer(0, 9);
    if (what < 5) this.take();
    else if (what < 7) {
      const newest = this.snapshots.at(-1);
      if (newest !== undefined) this.bases.set(random.pick(["v", "w"]), newest.id);
    } else if (what < 8) {
      if (this.snapshots.length > 0) this.readers.add(random.pick(this.snapshots).id);
    } else if (what < 9) this.readers.clear();
    this.expire(0);
  }

  take(): void {
    // Each snapshot has a layer of its own, and one more is written.
    this.expire(Math.max(0, this.snapshots.length + 1 - (layersMax - 2)));
    const room = this.readers.size + 1 < layersMax - 2;
    if (room) assert.ok(this.snapshots.length + 1 < layersMax, "there is a layer for the next one");
    const days = this.random.pick([0, 1, snapshotDays.usual, snapshotDays.max]);
    const label = { days: days === 0 ? undefined : days };
    this.snapshots.push(facts(`s${String(this.taken++)}`, this.nowMs, label));
  }
}

test("expiry: random histories against the rules", () => {
  for (let run = 0; run < runs; run++) {
    const world = new World(`expiry ${String(run)}`);
    for (let step = 0; step < 120; step++) world.step();
    assert.ok(world.taken > 0);
  }
});
