// Goal: the pool names finished objects by their content, wherever their bytes lie.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { allocateAligned } from "#base/aligned-memory.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { WorkerPool } from "./worker-pool.ts";

test("worker pool: names an object alike in shared memory, in a part of it, and in memory of its own", async () => {
  await using pool = new WorkerPool({ start: { keys: testKeys, verify: true }, size: 2 });
  const content = createSeededRandom("names").bytes(300_000);
  const expected = createHash("sha256").update(content).digest("hex");
  const shared = allocateAligned(512 * 1024, "shared");
  const part = shared.subarray(77, 77 + content.byteLength);
  part.set(content);
  for (const bytes of [content, part]) {
    assert.equal(Buffer.from(await pool.nameOf(bytes)).toString("hex"), expected);
  }
});
