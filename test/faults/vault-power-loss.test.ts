// Goal: a power loss at any moment of a vault's life takes no recovery point whose backup had ended,
// leaves none that cannot be read, and the next backup succeeds; a file system that is full at any
// call of a backup fails it with the right code and harms nothing.
// Method: real backups, deletions and collections through the file store on a simulated file system that keeps any part of what
// no fsync covered. KLUIS_LONG=1 runs twenty times as many.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { pointName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { readTestSeed, SeededRandom } from "#testing/seeded-random.ts";
import { SimulatedFiles } from "#testing/simulated-files.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";
import { verifyVault } from "#vault/verify.ts";
import { openSimulatedStore } from "./simulated-writers.ts";
import { type Objects, readObjects } from "./small-vault.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const seed = readTestSeed();
const page = 4096;

/** A point of a vault's life; moments are those of the file system's log. */
interface LivedPoint {
  readonly kept: KeptPoint;
  /** Of its manifest. */
  readonly name: string;
  /** When its backup had ended. */
  readonly endedAt: number;
  /** When its deletion began and had ended. */
  deletion: { readonly beganAt: number; readonly endedAt: number } | undefined;
}

/** A vault's life on a simulated file system. */
interface Life {
  readonly files: SimulatedFiles;
  readonly points: readonly LivedPoint[];
  /** Everything that was ever put. */
  readonly objects: Objects;
}

/** Whoever has a lease is taken for dead; packs are copied out for any unused byte. */
const collection = { allowMassDeletion: true, unusedShare: 0, abandonAfterMs: -1 } as const;

/** Remembers what is put through it. */
class KeepingStore extends FaultyStore {
  readonly #objects: Map<string, Uint8Array>;

  constructor(inner: ObjectStore, objects: Map<string, Uint8Array>) {
    super(inner);
    this.#objects = objects;
  }

  override put(...args: Parameters<ObjectStore["put"]>): ReturnType<ObjectStore["put"]> {
    const [name, parts] = args;
    if (!this.#objects.has(name)) this.#objects.set(name, concatBytes(parts));
    return super.put(...args);
  }
}

class Lives {
  readonly files: SimulatedFiles;
  readonly points: LivedPoint[] = [];
  readonly objects = new Map<string, Uint8Array>();
  readonly #random: SeededRandom;

  constructor(random: SeededRandom) {
    this.files = new SimulatedFiles(random);
    this.#random = random;
  }

  /** The vault as a process of its own sees it. */
  async open(): Promise<Vault> {
    const store = await openSimulatedStore(this.files.startProcess());
    return openTestVault({ store: new KeepingStore(store, this.objects) });
  }

  /** Writes a full point and increments; ends early where a collector fences it. */
  async write(itemId: string, count: number): Promise<void> {
    await using vault = await this.open();
    const random = this.#random;
    const disk = new MemoryDisk(600 * 1024);
    disk.write(0, random.bytes(20 * page));
    let base: KeptPoint | undefined;
    for (let number = 1; number <= count; number++) {
      try {
        base = await backUp(vault, { itemId, number, disks: [disk], ...(base && { base }) });
      } catch (error) {
        assert.ok(isKluisError(error, "BackupFenced"), String(error));
        return;
      }
      const { pointId } = base.manifest;
      const endedAt = this.files.moment;
      const found = (await vault.listPoints(itemId)).find((point) => point.pointId === pointId);
      assert.ok(found);
      const name = pointName(found.item, pointId);
      this.points.push({ kept: base, name, endedAt, deletion: undefined });
      // The same pages each time, so that what a deleted point held of them is needed by none.
      for (let at = 30; at < 35; at++) disk.write(at * page, random.bytes(page));
    }
  }

  /** Deletes the first points of an item, one after the other, and collects. */
  async deleteAndCollect(itemId: string, count: number): Promise<void> {
    await using vault = await this.open();
    for (const name of (await vault.listPoints(itemId)).slice(0, count)) {
      const lived = this.points.find((point) => point.name === pointName(name.item, name.pointId));
      assert.ok(lived);
      const beganAt = this.files.moment;
      lived.deletion = { beganAt, endedAt: Infinity };
      await vault.deletePoint(name);
      lived.deletion = { beganAt, endedAt: this.files.moment };
    }
    await vault.collect(collection);
  }
}

/** Backups, deletions and collections, some of them beside each other. */
async function live(random: SeededRandom): Promise<Life> {
  const lives = new Lives(random);
  await Promise.all([lives.write("vm", 3), lives.write("other", 1)]);
  await Promise.all([lives.deleteAndCollect("vm", 2), lives.write("late", 2)]);
  const store = await openSimulatedStore(lives.files.startProcess());
  const left = await readObjects(store);
  const isGone = (name: string): boolean => name.startsWith("packs/") && !left.has(name);
  assert.ok([...lives.objects.keys()].some(isGone), "the collection removed packs");
  return lives;
}

/** Whether a point must be there after a power loss, or must not; `undefined` where a call was under way. */
function presenceAt(point: LivedPoint, moment: number): boolean | undefined {
  if (point.endedAt > moment) return undefined;
  if (point.deletion === undefined || point.deletion.beganAt > moment) return true;
  return point.deletion.endedAt <= moment ? false : undefined;
}

/** Asserts that all objects that are left are as they were put, and that promised points are there. */
async function assertWhole(store: ObjectStore, life: Life, moment: number): Promise<string> {
  const left = await readObjects(store);
  for (const [name, bytes] of left) {
    const put = life.objects.get(name) ?? new Uint8Array(0);
    assert.ok(bytesEqual(bytes, put), `"${name}" is whole`);
  }
  for (const point of life.points) {
    const isThere = left.has(point.name) && !left.has(point.name.replace("points/", "deleted/"));
    const expected = presenceAt(point, moment) ?? isThere;
    assert.equal(isThere, expected, `${point.name} is ${expected ? "lost" : "back"}`);
  }
  return [...left.keys()].sort().join();
}

/** Asserts that every point that is there reads, that a collection ends, and that backups go on. */
async function assertLives(store: ObjectStore, life: Life): Promise<number> {
  await using vault = await openTestVault({ store });
  await using _ = vault.openDisk({ root: undefined, sizeBytes: 0 });
  const readAll = async (): Promise<number> => {
    const names = await vault.listPoints();
    for (const name of names) {
      const object = pointName(name.item, name.pointId);
      const kept = life.points.find((point) => point.name === object)?.kept;
      // Of a backup that was told that it had failed nobody kept the disk.
      const manifest = await vault.readPoint(name);
      if (kept === undefined) continue;
      assert.deepEqual(manifest, kept.manifest);
      await assertPointReads(vault, kept);
    }
    return names.length;
  };
  const count = await readAll();
  assert.match((await vault.collect(collection)).end, /^(done|nothing-to-do)$/);
  assert.equal(await readAll(), count);
  const disk = new MemoryDisk(600 * 1024);
  disk.write(0, life.points[0]?.kept.disks[0]?.bytes() ?? new Uint8Array(0));
  disk.write(0, new Uint8Array(page).fill(9));
  const next = await backUp(vault, { itemId: "vm", number: 99, disks: [disk] });
  await assertPointReads(vault, next);
  const options = { store, keys: testKeys, vault, clock: systemClock, workers: 1 };
  const report = await verifyVault(options);
  assert.deepEqual([report.verdict, report.badObjects], ["sound", []]);
  return count;
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
      const key = await assertWhole(store, life, moment);
      losses++;
      // What is left is the same objects as before: they read as they did.
      if (seen.has(key) || (!isLong && seen.size >= 6)) continue;
      seen.add(key);
      stores++;
      restored += await assertLives(store, life);
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
    if (isFull) {
      await assertWhole(after, { ...life, objects: await readObjects(after) }, life.files.moment);
      await assertLives(after, life);
    }
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
