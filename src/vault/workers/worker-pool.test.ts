// Goal: the pool names finished objects by their content, wherever their bytes lie, and starts a thread
// only for more work than the others end meanwhile.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { allocateAligned } from "#base/aligned-memory.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { watchThreads } from "#testing/thread-watch.ts";
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

test("worker pool: where a thread dies, tasks fail when none runs that could write into what they lent", async () => {
  using threads = watchThreads();
  await using pool = new WorkerPool({ start: { keys: testKeys, verify: true }, size: 2 });
  const content = allocateAligned(64 * 1024 * 1024, "shared");
  const aliveAtFailure = Array.from({ length: 12 }, async () => {
    await assert.rejects(pool.nameOf(content), (error) => isKluisError(error, "Internal"));
    return threads.alive.size;
  });
  assert.equal(threads.started(), 2);
  const [first] = threads.alive;
  await first?.terminate();
  assert.deepEqual(new Set(await Promise.all(aliveAtFailure)), new Set([0]));
});

test("worker pool: one thread does two tasks, many tasks get as many threads as there may be", async () => {
  using threads = watchThreads();
  const content = allocateAligned(4096, "shared").fill(1);
  await using pool = new WorkerPool({ start: { keys: testKeys, verify: true }, size: 2 });
  const name = async (): Promise<Uint8Array> => await pool.nameOf(content);
  pool.warmUp(1);
  await Promise.all([name(), name()]);
  await Promise.all([name(), name()]);
  assert.equal(threads.started(), 1);
  const names = await Promise.all(Array.from({ length: 12 }, name));
  assert.equal(threads.started(), 2);
  for (const one of names) assert.deepEqual(one, names[0]);
});
