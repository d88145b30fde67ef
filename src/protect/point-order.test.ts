// Goal: a clock that runs behind makes no older point the newest: lists, bases and prunings keep the order in which
// points were made, and people are told; also where it is the newest point that is dated wrongly.
// Method: backups of an image in a vault in memory, under a clock of the test's own.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { createMemoryReader, MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import type { Vault } from "#vault/vault.ts";
import { backupImage } from "./backup-image.ts";
import { clockSkewMaxMs } from "./point-order.ts";
import { applyPruning, planPruning } from "./prune.ts";

const random = createSeededRandom("point order");
const hourMs = 3600 * 1000;
const now = 20_000 * 24 * hourMs;
const request = { itemId: "one", itemName: "one" };

async function backup(vault: Vault, disk: MemoryDisk, atMs: number, bitmapSince?: string) {
  disk.write(random.integer(0, 500) * 1000, random.bytes(1000));
  await using reader = createMemoryReader(disk);
  const image = { reader, identity: "x", [Symbol.asyncDispose]: async () => {} };
  const since = bitmapSince === undefined ? {} : { bitmapSince };
  const deps = { vault, clock: new ManualClock(atMs), random: systemRandom };
  return await backupImage(image, { ...request, ...since }, deps);
}

test("point order: points of a clock that runs behind come after the others, and it is told", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(1024 * 1024);
  const ids: string[] = [];
  const times = [0, -20, -1, -1, 0, 0, -clockSkewMaxMs / hourMs];
  for (const hours of times) {
    const { manifest, warnings } = await backup(vault, disk, now + hours * hourMs, ids[0]);
    assert.equal(warnings.length, ids.length > 0 ? 1 : 0, `${hours} h`);
    for (const warning of warnings) assert.match(warning, /this one is ordered after it; set the/);
    assert.equal(manifest.takenAtMs, now + hours * hourMs, "the point says what the clock said");
    ids.push(manifest.pointId);
    const listed = (await vault.listPoints("one")).map(({ pointId }) => pointId);
    assert.deepEqual(listed, ids);
    assert.equal((await vault.readNewestPoint("one"))?.pointId, ids.at(-1), "the next one's base");
  }
  const later = await backup(vault, disk, now + hourMs);
  assert.deepEqual(later.warnings, []);
  await applyPruning(vault, await planPruning(vault, { last: 2 }, { nowMs: now + hourMs }));
  const left = (await vault.listPoints("one")).map(({ pointId }) => pointId);
  assert.deepEqual(left, [ids.at(-1), later.manifest.pointId]);
});

test("point order: a point that is dated far in the future is told, and once it is deleted all is well", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(1024 * 1024);
  const nowMs = now;
  const ahead = await backup(vault, disk, now + 400 * 24 * hourMs);
  const ids: string[] = [];
  for (let hours = -3; hours < 0; hours++) {
    const { manifest, warnings } = await backup(vault, disk, now + hours * hourMs);
    assert.match(warnings[0] ?? "", /or delete that point if it is dated in the future$/);
    assert.equal(manifest.basePointId, ids.at(-1) ?? ahead.manifest.pointId);
    ids.push(manifest.pointId);
  }
  const isRefused = (error: unknown): boolean =>
    isKluisError(error, "ArgumentInvalid") && error.message.includes(ahead.manifest.pointId);
  await assert.rejects(planPruning(vault, { last: 1 }, { nowMs }), isRefused);
  const [first] = await vault.listPoints("one");
  assert.equal(first?.pointId, ahead.manifest.pointId);
  await vault.deletePoint(first);
  await applyPruning(vault, await planPruning(vault, { last: 2 }, { nowMs }));
  const left = (await vault.listPoints("one")).map(({ pointId }) => pointId);
  assert.deepEqual(left, ids.slice(1));
});
