// Goal: ids that came of late are remembered, and none is ever taken for one that did not come, also not
// one with the same first bytes or of zeros. Method: random ids of few beginnings beside an exact set.
import assert from "node:assert/strict";
import { test } from "node:test";

import { toHex } from "#base/bytes.ts";
import { idBytes } from "#formats/geometry.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { RecentIds } from "./recent-ids.ts";

const random = createSeededRandom("recent ids");

test("recent ids: knows only what came, and all of it while nothing has driven it out", () => {
  const recent = new RecentIds();
  const came = new Set<string>();
  let known = 0;
  for (let round = 0; round < 20_000; round++) {
    const ids = new Uint8Array(3 + idBytes);
    // Few beginnings and few ends: many ids have one place, some come twice.
    ids[5] = random.integer(0, 15);
    ids[ids.length - 1] = random.integer(0, 255);
    const id = toHex(ids.subarray(3));
    const isKnown = recent.has(ids, 3);
    if (isKnown) known++;
    assert.ok(!isKnown || came.has(id), `${id} did not come before`);
    came.add(id);
    recent.add(ids, 3);
    assert.ok(recent.has(ids, 3), "what came last is remembered");
  }
  assert.ok(known > 0, "some came again before they were driven out");
});
