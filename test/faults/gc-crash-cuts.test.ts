// Goal: at whatever operation on the store a deletion or a collection dies, every point that was not
// deleted reads back, the vault is sound, backups go on, and the next collection frees what is left.
// Method: record every put and removal of deletions and a collection that copies out; rebuild the store
// for a crash before each event, with every subset of the operations under way; read, collect, back up.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { assertVaultSound, countPackBytes, deleteKept, writeChain } from "#testing/gc-points.ts";
import type { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { type RecordedChange, RecordingStore } from "#testing/recording-store.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { isInSlice } from "#testing/slice.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";

const page = 4096;
const mib = 1024 * 1024;
const isLong = process.env["KLUIS_LONG"] === "1";
const random = createSeededRandom("gc crash cuts");
/** Whoever has a lease is taken for dead; packs are copied out for any unused byte. */
const options = {
  allowMassDeletion: true,
  unusedShare: 0,
  abandonAfterMs: -1,
} as const;

async function writePoints(vault: Vault, itemId: string, points: number): Promise<KeptPoint[]> {
  const change = { runBytes: mib / 2, pages: 9 };
  return await writeChain(vault, { itemId, points, random, diskMib: 3, change });
}

/** What deletions and a collection did to a vault, and which points must stay. */
async function record(): Promise<{ store: RecordingStore; kept: readonly KeptPoint[] }> {
  const inner = createMemoryStore();
  await using writer = await openTestVault({ store: inner });
  const points = [...(await writePoints(writer, "vm", 5)), ...(await writePoints(writer, "b", 2))];
  const gone = new Set([points[0], points[2], points[5]]);
  const store = await RecordingStore.open(inner);
  await using vault = await openTestVault({ store });
  for (const point of gone) if (point !== undefined) await deleteKept(vault, point);
  const report = await vault.collect(options);
  assert.equal(report.end, "done");
  assert.ok(report.copiedBlocks > 0 && (report.plan?.garbageBytes ?? 0) >= 0);
  return { store, kept: points.filter((point) => !gone.has(point)) };
}

function subsetsOf(changes: readonly RecordedChange[]): readonly ReadonlySet<RecordedChange>[] {
  assert.ok(changes.length <= 6, "few operations are under way at once");
  return Array.from(
    { length: 2 ** changes.length },
    (_, bits) => new Set(changes.filter((_change, at) => (bits >> at) & 1)),
  );
}

/** Each store that a crash may leave, once. */
async function* crashesOf(store: RecordingStore): AsyncGenerator<ObjectStore> {
  const seen = new Set<string>();
  for (let cut = 0; cut <= store.events.length; cut++) {
    const underWay = new Set<RecordedChange>();
    for (const { moment, change } of store.events.slice(0, cut)) {
      if (moment === "began") underWay.add(change);
      else underWay.delete(change);
    }
    for (const survivors of subsetsOf([...underWay])) {
      const left = store.rebuild(cut, (change) => survivors.has(change));
      const names: string[] = [];
      for await (const { name } of left.list("")) names.push(name);
      const key = names.sort().join();
      if (seen.has(key)) continue;
      seen.add(key);
      yield left;
    }
  }
}

/** All that must stay is there and reads; nothing is damaged. */
async function assertKept(store: ObjectStore, kept: readonly KeptPoint[]): Promise<number> {
  await using vault = await openTestVault({ store });
  await using _reader = vault.openDisk({ root: undefined, sizeBytes: 0 });
  const there = new Set((await vault.listPoints()).map(({ item, pointId }) => item + pointId));
  for (const point of kept) await assertPointReads(vault, point);
  assert.ok(there.size >= kept.length, "no point that stays is missing");
  await assertVaultSound(store, vault);
  return there.size;
}

test("gc crash cuts: whatever a collection that dies leaves, nothing is lost and the next one ends it", async () => {
  const { store, kept } = await record();
  const whole = await countPackBytes(store.rebuild(store.events.length));
  let stores = 0;
  let restored = 0;
  for await (const left of crashesOf(store)) {
    stores++;
    restored += await assertKept(left, kept);
    if (!isInSlice(3)) continue;
    await using vault = await openTestVault({ store: left });
    const end = await vault.collect(options);
    assert.ok(end.end === "done" || end.end === "nothing-to-do", end.end);
    // Points that were deleted by then are gone, so as much is freed as by the collection that ended.
    const there = await assertKept(left, kept);
    if (there === kept.length) assert.ok((await countPackBytes(left)) < whole * 1.1);
    if (!isLong && !random.chance(0.2)) continue;
    const base = kept.find(({ manifest }) => manifest.itemId === "b");
    const disk = base?.disks[0]?.snapshot() as MemoryDisk;
    disk.write(random.integer(0, 400) * page, random.bytes(3 * page));
    const next = { itemId: "b", number: 999, disks: [disk], ...(base && { base }) };
    await assertKept(left, [...kept, await backUp(vault, next)]);
  }
  console.log(
    `${store.events.length} events left ${stores} different stores, ${restored} points read`,
  );
  assert.ok(stores > 20);
});
