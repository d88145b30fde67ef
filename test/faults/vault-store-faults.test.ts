// Goal: whatever store, disk, thread or caller does to a backup, it ends with a typed error, nothing
// half is committed, nothing goes on behind the error, and the same vault works afterwards.
// Method: break each call of a backup in turn, in each way it can break.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { DiskReader } from "#ports/disk.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { type Fault, FaultyStore, injectedError } from "#testing/faulty-store.ts";
import { createMemoryReader, MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { isInSlice, takesAll } from "#testing/slice.ts";
import { watchThreads } from "#testing/thread-watch.ts";
import { assertPointReads, backUp, type KeptPoint, pointIdOf } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";
import type { DiskInput } from "#vault/writer/point-writer.ts";

const mib = 1024 * 1024;
const random = createSeededRandom("vault faults");
const isLong = process.env["KLUIS_LONG"] === "1";

/** A vault with one point, and the disks as they are when the next one is due. */
interface Scene {
  readonly objects: readonly (readonly [string, Uint8Array])[];
  readonly base: KeptPoint;
  readonly disks: readonly MemoryDisk[];
}

async function createScene(): Promise<Scene> {
  const store = createMemoryStore();
  await using vault = await openTestVault({ store });
  const disks = [new MemoryDisk(12 * mib), new MemoryDisk(3 * mib + 512)];
  for (const disk of disks) disk.write(0, random.bytes(2 * mib));
  const base = await backUp(vault, { itemId: "vm", number: 1, disks });
  for (const disk of disks) {
    for (let at = 0; at < 30; at++) disk.write(at * 65_536, random.bytes(4096));
  }
  disks[0]?.write(6 * mib, random.bytes(5 * mib));
  const objects: [string, Uint8Array][] = [];
  for await (const { name } of store.list("")) objects.push([name, await store.get(name)]);
  return { objects, base, disks };
}

const scene = await createScene();

/** Counts calls of the store, and those under way. */
class CountingStore extends FaultyStore {
  calls = 0;
  running = 0;
  onCall: (call: number) => void = () => {};

  override put(...args: Parameters<ObjectStore["put"]>): ReturnType<ObjectStore["put"]> {
    return this.#count(() => super.put(...args));
  }

  override get(...args: Parameters<ObjectStore["get"]>): ReturnType<ObjectStore["get"]> {
    return this.#count(() => super.get(...args));
  }

  override stat(...args: Parameters<ObjectStore["stat"]>): ReturnType<ObjectStore["stat"]> {
    return this.#count(() => super.stat(...args));
  }

  async #count<T>(call: () => Promise<T>): Promise<T> {
    this.onCall(this.calls++);
    this.running++;
    try {
      await new Promise(setImmediate);
      return await call();
    } finally {
      this.running--;
    }
  }
}

interface Stage {
  readonly inner: ObjectStore;
  readonly store: CountingStore;
  readonly vault: Vault;
}

async function openStage(workers = 1): Promise<Stage> {
  const inner = createMemoryStore(scene.objects);
  const store = new CountingStore(inner);
  return { inner, store, vault: await openTestVault({ store, workers }) };
}

/** Backs the scene's disks up as the second point; `wrap` may break the readers. */
async function backUpScene(
  vault: Vault,
  options: {
    readonly signal?: AbortSignal;
    readonly wrap?: (reader: DiskReader) => DiskReader;
    readonly onProgress?: () => void;
  } = {},
): Promise<KeptPoint> {
  const { wrap = (reader) => reader, signal, onProgress } = options;
  const { base, disks } = scene;
  const inputs = disks.map((disk, at): DiskInput => {
    const baseDisk = base.manifest.disks[at];
    const content = base.disks[at];
    assert.ok(baseDisk && content);
    const baseReader = wrap(at === 0 ? createMemoryReader(content) : vault.openDisk(baseDisk));
    const increment = {
      base: { disk: baseDisk, reader: baseReader },
      changes: disk.changesSince(content),
    };
    const reader = wrap(createMemoryReader(disk));
    return { name: baseDisk.name, reader, tracking: "snapshot-difference", increment };
  });
  const point = {
    pointId: pointIdOf(2),
    itemId: "vm",
    itemName: "vm",
    takenAtMs: 2,
    consistency: "crash" as const,
    basePointId: base.manifest.pointId,
  };
  try {
    const write = { ...(signal && { signal }), ...(onProgress && { onProgress }) };
    const { manifest } = await vault.writePoint({ point, disks: inputs }, write);
    return { manifest, disks };
  } finally {
    for (const { increment } of inputs) await increment?.base.reader[Symbol.asyncDispose]();
  }
}

/**
 * Runs a backup that breaks and asserts what must hold then: nothing goes on, the point is whole
 * or absent, and the same vault writes the next point, which a fresh vault reads.
 */
async function assertSurvives(
  stage: Stage,
  broken: Promise<unknown>,
  isExpected: (error: unknown) => boolean,
): Promise<"failed" | "succeeded"> {
  const { store, vault, inner } = stage;
  let outcome: "failed" | "succeeded" = "succeeded";
  await broken.catch((error: unknown) => {
    outcome = "failed";
    assert.ok(isExpected(error), String(error));
  });
  assert.equal(store.running, 0, "no call of the store is under way");
  const { calls } = store;
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  assert.equal(store.calls, calls, "no call of the store follows the error");
  store.heal();
  store.onCall = () => {};
  const number = 3;
  const kept = await backUp(vault, { itemId: "vm", number, disks: scene.disks, base: scene.base });
  await vault[Symbol.asyncDispose]();
  await using fresh = await openTestVault({ store: inner });
  const ids = (await fresh.listPoints("vm")).map(({ pointId }) => pointId);
  for (const pointId of ids) {
    const [name] = (await fresh.listPoints("vm")).filter((point) => point.pointId === pointId);
    assert.ok(name);
    const manifest = await fresh.readPoint(name);
    const { disks } = pointId === pointIdOf(1) ? scene.base : kept;
    await assertPointReads(fresh, { manifest, disks });
  }
  assert.deepEqual(
    ids.filter((id) => id !== pointIdOf(2)),
    [pointIdOf(1), pointIdOf(3)],
  );
  if (outcome === "succeeded") assert.ok(ids.includes(pointIdOf(2)));
  return outcome;
}

/** Any object but a sign of life, of which many may be missed. */
const needed = /^(?!leases\/\w+\.)/;

/** How many calls of a method, on names that match, a backup makes. */
async function countCalls(method: "put" | "get"): Promise<number> {
  const { store, vault } = await openStage();
  const before = store.calls;
  let count = 0;
  const original = store[method].bind(store) as (...args: never[]) => Promise<never>;
  store[method] = (...args: never[]) => {
    if (needed.test(String(args[0]))) count++;
    return original(...args);
  };
  await backUpScene(vault);
  await vault[Symbol.asyncDispose]();
  assert.ok(store.calls > before);
  return count;
}

const unavailable = (error: unknown): boolean => isKluisError(error, "StoreUnavailable");

test("vault store faults: a retry in the same process does not trust packs that no segment names", async () => {
  const disk = new MemoryDisk(mib);
  disk.write(0, random.bytes(disk.sizeBytes));
  const inner = createMemoryStore();
  const store = new FaultyStore(inner);
  await using vault = await openTestVault({ store });
  const fault: Fault = { kind: "error", error: injectedError() };
  store.inject({ method: "put", name: /^index\//, fault });
  await assert.rejects(backUp(vault, { itemId: "vm", number: 1, disks: [disk] }), unavailable);
  const kept = await backUp(vault, { itemId: "vm", number: 2, disks: [disk] });
  await using reopened = await openTestVault({ store: inner });
  await assertPointReads(reopened, kept);
});

test("vault store faults: each put that fails, or whose answer is lost", async () => {
  const puts = await countCalls("put");
  using threads = watchThreads();
  for (const kind of ["error", "lost-answer"] as const) {
    for (let after = 0; after < puts; after++) {
      if (!isInSlice(2)) continue;
      const stage = await openStage();
      const fault = { kind, error: injectedError() };
      stage.store.inject({ method: "put", name: needed, after, fault });
      const outcome = await assertSurvives(stage, backUpScene(stage.vault), unavailable);
      // The last one tells the inventory of a point that is committed by then.
      assert.equal(outcome, after === puts - 1 ? "succeeded" : "failed");
      assert.equal(threads.alive.size, 0, "no thread is left");
    }
  }
  console.log(`${puts} puts broken in 2 ways, ${threads.started()} threads`);
});

test("vault store faults: a store that is full after any number of bytes", async () => {
  const { store, vault } = await openStage();
  await using _ = vault;
  let bytes = 0;
  const original = store.put.bind(store);
  const steps: number[] = [];
  store.put = (name, parts, signal) => {
    steps.push(bytes);
    bytes += parts.reduce((sum, part) => sum + part.byteLength, 0);
    return original(name, parts, signal);
  };
  await backUpScene(vault);
  const committed: boolean[] = [];
  for (const [at, limit] of steps.entries()) {
    if (at > 0 && !isInSlice(2)) continue;
    const stage = await openStage();
    stage.store.limitSpace(limit);
    let isCommitted = false;
    const put = stage.store.put.bind(stage.store);
    stage.store.put = async (name, ...args) => {
      const answer = await put(name, ...args);
      if (parseStoreName(name)?.kind === "manifest") isCommitted = true;
      return answer;
    };
    const isFull = (error: unknown): boolean => isKluisError(error, "StoreNoSpace");
    const broken = backUpScene(stage.vault).finally(() => {
      // The manifest commits; what follows it may fail, and signs of life are put by the clock.
      committed.push(isCommitted);
    });
    const outcome = await assertSurvives(stage, broken, isFull);
    assert.equal(outcome, committed.at(-1) === true ? "succeeded" : "failed");
  }
  assert.equal(committed[0], false, "without any space nothing is committed");
});

test("vault store faults: a store that repeats a put whose answer was lost commits the point", async () => {
  const { store, vault, inner } = await openStage();
  const original = store.put.bind(store);
  store.put = async (...args) => {
    await original(...args);
    return await original(...args);
  };
  const kept = await backUpScene(vault);
  await vault[Symbol.asyncDispose]();
  await using fresh = await openTestVault({ store: inner });
  await assertPointReads(fresh, kept);
});

test("vault store faults: another point of the same id is not taken for ours", async () => {
  const { vault } = await openStage();
  await using _ = vault;
  await backUpScene(vault);
  await assert.rejects(backUpScene(vault), (error) => isKluisError(error, "RecoveryPointExists"));
});

test("vault store faults: each get that fails, while writing and while reading", async () => {
  const gets = await countCalls("get");
  assert.ok(gets > 0, "the base is read from the vault");
  for (let after = 0; after < gets; after++) {
    if (!isInSlice(2)) continue;
    const stage = await openStage();
    const fault: Fault = { kind: "error", error: injectedError() };
    stage.store.inject({ method: "get", after, fault });
    await assertSurvives(stage, backUpScene(stage.vault), unavailable);
  }
  const { store, vault } = await openStage();
  await using _ = vault;
  for (let after = 0; ; after++) {
    store.inject({ method: "get", after, fault: { kind: "error", error: injectedError() } });
    const before = store.injected;
    await assertPointReads(vault, scene.base).catch((error: unknown) => {
      assert.ok(unavailable(error), String(error));
    });
    store.heal();
    await assertPointReads(vault, scene.base);
    if (store.injected === before) break;
  }
});

test("vault store faults: opening on a store that does not answer", async () => {
  const inner = createMemoryStore(scene.objects);
  for (const method of ["list", "stat", "get"] as const) {
    const store = new FaultyStore(inner);
    store.failNext(method);
    await assert.rejects(openTestVault({ store }), unavailable);
    await using vault = await openTestVault({ store });
    await assertPointReads(vault, scene.base);
  }
});

test("vault store faults: an abort at each call of the store", async () => {
  using threads = watchThreads();
  let failed = 0;
  for (let at = 0; ; at += takesAll ? 1 : random.integer(1, 3)) {
    const stage = await openStage();
    const controller = new AbortController();
    const reason = new KluisError("Cancelled", `Cannot go on: cancelled at call ${at}`);
    const first = stage.store.calls;
    let isOver = false;
    stage.store.onCall = (call) => {
      if (call - first === at) controller.abort(reason);
      if (call - first >= at) isOver = true;
    };
    const { signal } = controller;
    const broken = backUpScene(stage.vault, { signal });
    const outcome = await assertSurvives(stage, broken, (error) => error === reason);
    assert.equal(threads.alive.size, 0, "no thread is left");
    if (outcome === "failed") failed++;
    if (!isOver) break;
  }
  console.log(`${failed} aborts at calls of the store`);
  assert.ok(failed > 5);
});

test("vault store faults: an abort before, at each report of progress, and after", async () => {
  for (let at = -1; ; at++) {
    const stage = await openStage();
    const controller = new AbortController();
    const { signal } = controller;
    if (at < 0) controller.abort(new Error("enough"));
    let reports = 0;
    const onProgress = (): void => {
      if (reports++ === at) controller.abort(new Error("enough"));
    };
    const broken = backUpScene(stage.vault, { signal, onProgress });
    const outcome = await assertSurvives(stage, broken, (error) => /enough/.test(String(error)));
    if (at >= reports) break;
    assert.equal(outcome, "failed");
  }
});

/** A reader that counts what is under way and calls `onRead` with the number of each read. */
function watchReader(
  reader: DiskReader,
  watch: { running: number; reads: number },
  onRead: (read: number) => void,
): DiskReader {
  return {
    sizeBytes: reader.sizeBytes,
    readsInFlight: reader.readsInFlight,
    extents: (signal) => reader.extents(signal),
    assertUnchanged: () => reader.assertUnchanged(),
    [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose](),
    async read(offsetBytes, target, signal) {
      watch.running++;
      try {
        const read = watch.reads++;
        await new Promise(setImmediate);
        onRead(read);
        await reader.read(offsetBytes, target, signal);
      } finally {
        watch.running--;
      }
    },
  };
}

test("vault store faults: a disk that fails at any read, with the other disks at work", async () => {
  const { vault } = await openStage();
  const whole = { running: 0, reads: 0 };
  await backUpScene(vault, { wrap: (reader) => watchReader(reader, whole, () => {}) });
  await vault[Symbol.asyncDispose]();
  const step = isLong ? 1 : Math.ceil(whole.reads / (takesAll ? 12 : 6));
  for (let at = 0; at < whole.reads; at += step) {
    const stage = await openStage();
    const watch = { running: 0, reads: 0 };
    const error = new KluisError("DiskReadFailed", `Cannot read: broken at read ${at}`);
    const onRead = (read: number): void => {
      if (read === at) throw error;
    };
    const broken = backUpScene(stage.vault, {
      wrap: (reader) => watchReader(reader, watch, onRead),
    }).finally(() => assert.equal(watch.running, 0, "no read is under way"));
    const outcome = await assertSurvives(stage, broken, (thrown) => thrown === error);
    assert.equal(outcome, "failed");
  }
});

test("vault store faults: a disk that changed while it was read is not committed", async () => {
  const { vault, store } = await openStage();
  await using _ = vault;
  const isChanged = (error: unknown): boolean => isKluisError(error, "ImageChangedDuringRead");
  const wrap = (reader: DiskReader): DiskReader => ({
    ...watchReader(reader, { running: 0, reads: 0 }, () => {}),
    assertUnchanged: () =>
      Promise.reject(new KluisError("ImageChangedDuringRead", "Cannot trust the disk")),
  });
  await assert.rejects(backUpScene(vault, { wrap }), isChanged);
  assert.equal((await vault.listPoints("vm")).length, 1);
  assert.equal(store.running, 0);
});

test("vault store faults: a thread that dies ends the backup or restore, not the process", async () => {
  using threads = watchThreads();
  const internal = (error: unknown): boolean =>
    isKluisError(error, "Internal") && error.message.includes("thread");
  let killed = 0;
  for (let at = 0; at < (isLong ? 60 : takesAll ? 8 : 5); at++) {
    const stage = await openStage(2);
    const broken = backUpScene(stage.vault);
    const isEnded = broken.then(
      () => true,
      () => true,
    );
    const turn = (): Promise<boolean> => new Promise((resolve) => setImmediate(resolve, false));
    while (threads.alive.size === 0 && !(await Promise.race([isEnded, turn()]))) continue;
    for (let turns = at * 3; turns > 0; turns--) await turn();
    const [victim] = [...threads.alive].slice(-1 - (at % 2));
    await victim?.terminate();
    if ((await assertSurvives(stage, broken, internal)) === "failed") killed++;
    assert.equal(threads.alive.size, 0, "no thread is left");
  }
  console.log(`${killed} backups lost a thread`);
  assert.ok(killed > 2);
  await using vault = await openTestVault({ store: createMemoryStore(scene.objects), workers: 2 });
  const disk = scene.base.manifest.disks[0];
  assert.ok(disk);
  {
    await using reader = vault.openDisk(disk);
    await reader.read(0, new Uint8Array(512));
    for (const victim of threads.alive) await victim.terminate();
    await assert.rejects(reader.read(mib, new Uint8Array(mib)), internal);
    // Who opens a disk now gets threads that live.
    await assertPointReads(vault, scene.base);
  }
  assert.equal(threads.alive.size, 0);
});
