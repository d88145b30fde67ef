// Goal: a power loss at any moment of a vault's life takes no recovery point whose backup had ended,
// leaves none that cannot be read, and the next backup succeeds; a file system that is full at any
// call of a backup fails it with the right code and harms nothing.
// Method: real backups through the file store on a simulated file system that keeps any part of what
// no fsync covered. KLUIS_LONG=1 runs twenty times as many.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { bytesEqual } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { readTestSeed, SeededRandom } from "#testing/seeded-random.ts";
import { SimulatedFiles } from "#testing/simulated-files.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import { verifyVault } from "#vault/verify.ts";
import { openSimulatedStore } from "./simulated-writers.ts";
import { type Objects, readObjects } from "./small-vault.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const seed = readTestSeed();
const page = 4096;

/** A vault's life on a simulated file system. */
interface Life {
  readonly files: SimulatedFiles;
  /** Each point, and the moment of the log at which its backup had ended. */
  readonly points: readonly { readonly kept: KeptPoint; readonly endedAt: number }[];
  /** Everything that was ever put. */
  readonly objects: Objects;
}

/** Writes a full point, two increments, and one of another item by another process beside them. */
async function live(random: SeededRandom): Promise<Life> {
  const files = new SimulatedFiles(random);
  const points: { kept: KeptPoint; endedAt: number }[] = [];
  const write = async (itemId: string, count: number): Promise<void> => {
    const store = await openSimulatedStore(files.startProcess());
    await using vault = await openTestVault({ store });
    const disk = new MemoryDisk(600 * 1024);
    disk.write(0, random.bytes(20 * page));
    let base: KeptPoint | undefined;
    for (let number = 1; number <= count; number++) {
      base = await backUp(vault, { itemId, number, disks: [disk], ...(base && { base }) });
      points.push({ kept: base, endedAt: files.moment });
      for (let pages = 0; pages < 5; pages++) {
        disk.write(random.integer(0, 149) * page, random.bytes(page));
      }
    }
  };
  await Promise.all([write("vm", 3), write("other", 1)]);
  const store = await openSimulatedStore(files.startProcess());
  return { files, points, objects: await readObjects(store) };
}

/** Asserts that every point that is there reads, that none is missing, and that a backup goes on. */
async function assertLives(store: ObjectStore, life: Life, moment: number): Promise<number> {
  await using vault = await openTestVault({ store });
  await using _ = vault.openDisk({ root: undefined, sizeBytes: 0 });
  const found = new Set<string>();
  for (const itemId of ["vm", "other"]) {
    for (const name of await vault.listPoints(itemId)) {
      const kept = life.points.find(({ kept: { manifest } }) => {
        return manifest.pointId === name.pointId && manifest.itemId === itemId;
      })?.kept;
      assert.ok(kept);
      found.add(`${itemId} ${name.pointId}`);
      assert.deepEqual(await vault.readPoint(name), kept.manifest);
      await assertPointReads(vault, kept);
    }
  }
  for (const { kept, endedAt } of life.points) {
    const { itemId, pointId } = kept.manifest;
    assert.ok(
      endedAt > moment || found.has(`${itemId} ${pointId}`),
      `${itemId} ${pointId} is lost`,
    );
  }
  const disk = new MemoryDisk(600 * 1024);
  disk.write(0, life.points[0]?.kept.disks[0]?.bytes() ?? new Uint8Array(0));
  disk.write(0, new Uint8Array(page).fill(9));
  const next = await backUp(vault, { itemId: "vm", number: 99, disks: [disk] });
  await assertPointReads(vault, next);
  const options = { store, keys: testKeys, vault, clock: systemClock, workers: 1 };
  const report = await verifyVault(options);
  assert.deepEqual([report.verdict, report.badObjects], ["sound", []]);
  return found.size;
}

/** Asserts that all objects that a power loss left are as they were put. */
async function assertWhole(store: ObjectStore, { objects }: Life): Promise<string> {
  const left = await readObjects(store);
  for (const [name, bytes] of left) {
    // A lease lasts as long as its backup.
    if (name.startsWith("leases/")) continue;
    assert.ok(bytesEqual(bytes, objects.get(name) ?? new Uint8Array(0)), `"${name}" is whole`);
  }
  return [...left.keys()].sort().join();
}

test("vault power loss: points whose backup had ended are there, and all that are there read", async () => {
  let losses = 0;
  let restored = 0;
  let stores = 0;
  for (let lives = isLong ? 20 : 1; lives > 0; lives--) {
    const random = new SeededRandom(`${seed} vault power loss ${lives}`);
    const life = await live(random);
    const seen = new Set<string>();
    for (let cuts = 300; cuts > 0; cuts--) {
      const moment = random.integer(0, life.files.moment);
      const left = life.files.afterPowerLoss(moment, random);
      const store = await openSimulatedStore(left.startProcess());
      const key = await assertWhole(store, life);
      for (const { kept, endedAt } of life.points) {
        if (endedAt <= moment) assert.ok(key.includes(kept.manifest.pointId), "no point is lost");
      }
      losses++;
      // What is left is the same objects as before: they read as they did.
      if (seen.has(key) || (!isLong && seen.size >= 6)) continue;
      seen.add(key);
      stores++;
      restored += await assertLives(store, life, moment);
    }
  }
  console.log(
    `${losses} power losses left whole objects; ${stores} stores, ${restored} points read`,
  );
  assert.ok(restored > 0);
});

test("vault power loss: a backup on a file system that is full at any call fails, and harms nothing", async () => {
  const random = new SeededRandom(`${seed} vault full`);
  const life = await live(random);
  const takesSpace = new Set(["open", "writev", "link", "mkdir"]);
  const content = new MemoryDisk(600 * 1024);
  content.write(0, random.bytes(10 * page));
  /** One backup, from the n-th call that takes space on without any; returns how many calls there were. */
  const backUpUntil = async (limit: number): Promise<{ calls: number; isFull: boolean }> => {
    const files = life.files.afterPowerLoss(life.files.moment, random);
    const store = await openSimulatedStore(files.startProcess());
    let calls = 0;
    let isFull = false;
    {
      await using vault = await openTestVault({ store });
      files.fault = ({ call }) => {
        if (!takesSpace.has(call) || calls++ < limit) return undefined;
        return { kind: "error", errno: "ENOSPC" };
      };
      const point = { itemId: "vm", number: 50, disks: [content] };
      await backUp(vault, point).catch((error: unknown) => {
        assert.ok(isKluisError(error, "StoreNoSpace"), String(error));
        isFull = true;
      });
      files.fault = () => undefined;
    }
    const left = files.afterPowerLoss(files.moment, random);
    const after = await openSimulatedStore(left.startProcess());
    if (isFull) await assertLives(after, life, life.files.moment);
    return { calls, isFull };
  };
  const whole = await backUpUntil(Infinity);
  assert.ok(!whole.isFull && whole.calls > 10);
  let failed = 0;
  const step = isLong ? 1 : Math.ceil(whole.calls / 6);
  for (let limit = random.integer(0, step - 1); limit < whole.calls; limit += step) {
    if ((await backUpUntil(limit)).isFull) failed++;
  }
  console.log(`${failed} backups without space, then a power loss each, of ${whole.calls} calls`);
  assert.ok(failed > 0);
});
