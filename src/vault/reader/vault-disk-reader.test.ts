// Goal: a disk of a recovery point behaves like any other disk, also while others read it, give up
// or fail beside it. Method: the suite of the port on a vault in memory, and stores that misbehave.
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesEqual } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { FaultyStore, injectedError } from "#testing/faulty-store.ts";
import { createMemoryReader, MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { testDiskReader } from "#testing/suites/disk-reader-suite.ts";
import { assertPointReads, backUp, pointIdOf } from "#testing/vault-points.ts";

const mib = 1024 * 1024;

testDiskReader("vault disk reader", {
  reportsHoles: true,
  open: async (content) => {
    const vault = await openTestVault();
    const { manifest } = await vault.writePoint({
      point: {
        pointId: pointIdOf(1),
        itemId: "suite",
        itemName: "suite",
        takenAtMs: 1,
        consistency: "crash",
      },
      disks: [{ name: "vda", reader: createMemoryReader(content), tracking: "full" }],
    });
    const disk = manifest.disks[0];
    assert.ok(disk);
    const reader = vault.openDisk(disk);
    return {
      reader,
      async [Symbol.asyncDispose]() {
        await reader[Symbol.asyncDispose]();
        await vault[Symbol.asyncDispose]();
      },
    };
  },
});

/** A store that holds one get at a time until it is told to go on. */
class HeldStore extends FaultyStore {
  #held: (() => void)[] = [];
  isHolding = false;
  gets = 0;

  override async get(...args: Parameters<FaultyStore["get"]>): Promise<Uint8Array> {
    this.gets++;
    if (this.isHolding) await new Promise<void>((resolve) => this.#held.push(resolve));
    return super.get(...args);
  }

  release(): void {
    this.isHolding = false;
    for (const resolve of this.#held.splice(0)) resolve();
  }
}

async function openHeld(): Promise<{
  store: HeldStore;
  content: MemoryDisk;
  vault: Awaited<ReturnType<typeof openTestVault>>;
  open: () => ReturnType<Awaited<ReturnType<typeof openTestVault>>["openDisk"]>;
}> {
  const random = createSeededRandom("held");
  const content = new MemoryDisk(2 * mib);
  content.write(0, random.bytes(content.sizeBytes));
  const store = new HeldStore(createMemoryStore());
  const vault = await openTestVault({ store });
  const { manifest } = await backUp(vault, { itemId: "held", number: 1, disks: [content] });
  const disk = manifest.disks[0];
  assert.ok(disk);
  return { store, content, vault, open: () => vault.openDisk(disk) };
}

test("vault disk reader: one reader that gives up does not make another fail", async () => {
  const { store, content, vault, open } = await openHeld();
  await using _ = vault;
  await using reader = open();
  await reader.read(0, new Uint8Array(512));
  await using other = open();
  await other.read(0, new Uint8Array(512));
  store.isHolding = true;
  const controller = new AbortController();
  const range = { offsetBytes: mib, target: new Uint8Array(mib) };
  const aborted = reader.read(range.offsetBytes, new Uint8Array(mib), controller.signal);
  const aborts = assert.rejects(aborted, /enough/);
  const goesOn = reader.read(range.offsetBytes, range.target);
  await new Promise(setImmediate);
  controller.abort(new Error("enough"));
  await aborts;
  store.release();
  await goesOn;
  assert.ok(bytesEqual(range.target, content.bytes().subarray(mib)));
});

test("vault disk reader: nothing is written into a buffer after its read has failed", async () => {
  const { store, vault, open } = await openHeld();
  await using _ = vault;
  await using reader = open();
  store.isHolding = true;
  store.failNext("get");
  const target = new Uint8Array(2 * mib);
  const read = reader.read(0, target);
  const fails = assert.rejects(read, (error) => isKluisError(error, "StoreUnavailable"));
  while (store.gets === 0) await new Promise(setImmediate);
  store.release();
  await fails;
  target.fill(0xa5);
  for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
  assert.ok(target.every((byte) => byte === 0xa5));
});

test("vault disk reader: a read that failed can be repeated", async () => {
  const { store, content, vault, open } = await openHeld();
  await using _ = vault;
  await using reader = open();
  const target = new Uint8Array(2 * mib);
  for (let after = 0; after < 6; after++) {
    const method = "get";
    store.inject({ method, after, fault: { kind: "error", error: injectedError() } });
    await reader.read(0, target).catch((error: unknown) => {
      assert.ok(isKluisError(error, "StoreUnavailable"));
    });
    store.heal();
  }
  await reader.read(0, target);
  assert.ok(bytesEqual(target, content.bytes()));
});

test("vault disk reader: many disks are read side by side with one set of threads", async () => {
  const random = createSeededRandom("side by side");
  const disks = Array.from({ length: 12 }, () => {
    const disk = new MemoryDisk(mib);
    disk.write(random.integer(0, 100) * 512, random.bytes(500_000));
    return disk;
  });
  await using vault = await openTestVault({ workers: 2 });
  const kept = await backUp(vault, { itemId: "many", number: 1, disks });
  const readers = kept.manifest.disks.map((disk) => vault.openDisk(disk));
  await Promise.all([assertPointReads(vault, kept), assertPointReads(vault, kept)]);
  await Promise.all(readers.map((reader) => reader.read(0, new Uint8Array(mib))));
  const threads = process.getActiveResourcesInfo().filter((kind) => kind === "MessagePort").length;
  assert.ok(threads <= 2 * 2, `${threads} ports of threads`);
  await Promise.all(readers.map((reader) => reader[Symbol.asyncDispose]()));
  await assertPointReads(vault, kept);
});

test("vault disk reader: sees a point that another writer committed after the vault was opened", async () => {
  const random = createSeededRandom("others");
  const disk = new MemoryDisk(mib);
  disk.write(0, random.bytes(disk.sizeBytes));
  const store = createMemoryStore();
  await using reading = await openTestVault({ store });
  await using writing = await openTestVault({ store });
  const kept = await backUp(writing, { itemId: "others", number: 1, disks: [disk] });
  const [name] = await reading.listPoints("others");
  assert.ok(name);
  assert.deepEqual(await reading.readPoint(name), kept.manifest);
  await assertPointReads(reading, kept);
  disk.write(4096, random.bytes(4096));
  const next = await backUp(reading, { itemId: "others", number: 2, disks: [disk], base: kept });
  await assertPointReads(reading, next);
  assert.equal(next.manifest.disks[0]?.newBytes, 4096);
});

test("vault disk reader: reads with the thread that started ahead, and with others after that", async () => {
  const store = createMemoryStore();
  const content = new MemoryDisk(3 * mib);
  content.write(0, createSeededRandom("ahead").bytes(3 * mib));
  const options = { itemId: "ahead", number: 1, disks: [content] };
  await using writer = await openTestVault({ store, startThread: "writing" });
  const point = await backUp(writer, options);
  await using vault = await openTestVault({ store, startThread: "reading" });
  for (const isRestore of [true, false, true]) {
    const [disk] = point.manifest.disks;
    assert.ok(disk);
    await using reader = vault.openDisk(disk, isRestore);
    const bytes = new Uint8Array(3 * mib);
    await reader.read(0, bytes);
    assert.ok(bytesEqual(bytes, content.bytes()));
  }
  // A vault that started a thread and never gave it anything to do.
  await using _ = await openTestVault({ store, startThread: "reading" });
});
