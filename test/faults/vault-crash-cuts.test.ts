// Goal: whatever moment a writer dies at, every recovery point whose manifest is there lists, reads
// and verifies, and the next backup succeeds on what was left.
// Method: record every put of a sequence of backups; rebuild the store for a crash before each event
// of the log, with every subset of the puts that were under way; open, verify, restore, back up.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { windowBytes } from "#formats/geometry.ts";
import type { ObjectStore, PutOutcome } from "#ports/object-store.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { type RecordedChange, RecordingStore } from "#testing/recording-store.ts";
import { createSeededRandom, type SeededRandom } from "#testing/seeded-random.ts";
import { isInSlice } from "#testing/slice.ts";
import {
  assertChecksums,
  assertPointReads,
  backUp,
  type KeptPoint,
} from "#testing/vault-points.ts";
import { createKeyFileSecret } from "#vault/key-secret.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { createVaultFiles, openVaultFiles } from "#vault/vault-files.ts";
import type { Vault } from "#vault/vault.ts";
import { verifyVault } from "#vault/verify.ts";
import { assertWriteOrder } from "./write-order.ts";

const mib = 1024 * 1024;
const page = 4096;
const isLong = process.env["KLUIS_LONG"] === "1";

/** Puts take a few turns of the event loop, so that several are under way at once. */
class SlowStore extends FaultyStore {
  readonly #random: SeededRandom;
  readonly #secondPack = Promise.withResolvers<void>();
  #packs = 0;
  /** Whether the put of the first pack returns only when that of the second has begun. */
  holdsFirstPack = false;

  constructor(inner: ObjectStore, random: SeededRandom) {
    super(inner);
    this.#random = random;
  }

  override async put(...args: Parameters<ObjectStore["put"]>): Promise<PutOutcome> {
    const packs = args[0].startsWith("packs/") ? ++this.#packs : 0;
    if (packs === 2) this.#secondPack.resolve();
    const outcome = await super.put(...args);
    if (packs === 1 && this.holdsFirstPack) await this.#secondPack.promise;
    for (let turns = this.#random.integer(1, 40); turns > 0; turns--) {
      await new Promise(setImmediate);
    }
    return outcome;
  }
}

/** Everything that a sequence of backups left: its log, and what has to read back. */
interface Recorded {
  readonly store: RecordingStore;
  readonly keys: VaultKeys;
  readonly points: readonly KeptPoint[];
}

const random = createSeededRandom("crash cuts");
const { secret } = createKeyFileSecret(random);

async function createVault({ holdsFirstPack = false } = {}): Promise<{
  store: RecordingStore;
  keys: VaultKeys;
  vault: Vault;
}> {
  const slow = new SlowStore(createMemoryStore(), random);
  slow.holdsFirstPack = holdsFirstPack;
  const store = await RecordingStore.open(slow);
  const options = { secrets: [secret], random, withRecoveryKey: false };
  const { keys } = await createVaultFiles(store, options);
  return { store, keys, vault: await openTestVault({ store, keys, workers: 2 }) };
}

function writePages(disk: MemoryDisk, firstPage: number, step: number, pages: number): void {
  for (let at = 0; at < pages; at++) {
    disk.write((firstPage + at * step) * page, random.bytes(page));
  }
}

/** Full, increment, an increment that shatters a leaf, one that sweeps it, and a clone as second item. */
async function recordSequence(): Promise<Recorded> {
  const { store, keys, vault } = await createVault();
  await using _ = vault;
  const system = new MemoryDisk(9 * mib);
  const data = new MemoryDisk(5 * mib + 5 * 512);
  system.write(0, random.bytes(5 * mib));
  data.write(mib, random.bytes(2 * mib));
  data.write(data.sizeBytes - 512, random.bytes(512));
  const disks = [system, data];
  const points: KeptPoint[] = [];
  async function commit(itemId: string, base: KeptPoint | undefined, of = disks): Promise<void> {
    const number = points.length + 1;
    points.push(await backUp(vault, { itemId, number, disks: of, ...(base && { base }) }));
  }
  await commit("vm", undefined);
  system.zero(4 * mib, mib);
  writePages(system, 100, 7, 20);
  data.write(data.sizeBytes - 1024, random.bytes(1024));
  await commit("vm", points.at(-1));
  writePages(system, 0, 2, 256);
  await commit("vm", points.at(-1));
  writePages(system, 1, 64, 6);
  writePages(system, 1300, 1, 700);
  await commit("vm", points.at(-1));
  const swept = points.at(-1)?.manifest.disks[0];
  assert.ok((swept?.rewrite?.cursor ?? 0) > 0, "the sweep stored windows anew");
  const clone = system.snapshot();
  writePages(clone, 5, 3, 4);
  await commit("clone", undefined, [clone]);
  const deduped = points.at(-1)?.manifest.disks[0];
  assert.ok(deduped && deduped.newBytes < deduped.changedBytes, "most of the clone was there");
  return { store, keys, points };
}

/** All subsets of what was under way at a cut; of many, some. */
function subsetsOf(changes: readonly RecordedChange[]): readonly ReadonlySet<RecordedChange>[] {
  assert.ok(changes.length <= 10, "few puts are under way at once");
  const subsets: ReadonlySet<RecordedChange>[] = [];
  for (let bits = 0; bits < 2 ** changes.length; bits++) {
    subsets.push(new Set(changes.filter((_, at) => (bits >> at) & 1)));
  }
  return subsets;
}

/** Each store that a crash of the recorded writer may leave, once; counts all the crashes. */
async function* crashesOf(store: RecordingStore): AsyncGenerator<{
  readonly left: ObjectStore;
  readonly names: ReadonlySet<string>;
  readonly cuts: number;
}> {
  const seen = new Set<string>();
  let cuts = 0;
  for (let cut = 0; cut <= store.events.length; cut++) {
    const underWay = new Set<RecordedChange>();
    for (const { moment, change } of store.events.slice(0, cut)) {
      if (moment === "began") underWay.add(change);
      else underWay.delete(change);
    }
    for (const survivors of subsetsOf([...underWay])) {
      cuts++;
      const left = store.rebuild(cut, (change) => survivors.has(change));
      const names = new Set<string>();
      for await (const { name } of left.list("")) names.add(name);
      const key = [...names].sort().join();
      if (seen.has(key)) continue;
      seen.add(key);
      yield { left, names, cuts };
    }
  }
}

/** Opens what a crash left; where the vault was not there yet it is created. */
async function reopen(left: ObjectStore): Promise<{ vault: Vault; keys: VaultKeys }> {
  let keys: VaultKeys;
  try {
    ({ keys } = await openVaultFiles(left, secret));
  } catch (error) {
    assert.ok(isKluisError(error, "StoreNotFound"), String(error));
    ({ keys } = await createVaultFiles(left, {
      secrets: [secret],
      random,
      withRecoveryKey: false,
    }));
  }
  return { keys, vault: await openTestVault({ store: left, keys }) };
}

/** The points whose manifests are there, each of which reads back. */
async function assertPointsRead(vault: Vault, points: readonly KeptPoint[]): Promise<KeptPoint[]> {
  const byId = new Map(points.map((kept) => [kept.manifest.pointId, kept]));
  const there: KeptPoint[] = [];
  for (const name of await vault.listPoints()) {
    const kept = byId.get(name.pointId);
    assert.ok(kept);
    assert.deepEqual(await vault.readPoint(name), kept.manifest);
    await assertPointReads(vault, kept);
    there.push(kept);
  }
  return there;
}

/** The points that are there read back; how many that are. */
async function assertRestores(left: ObjectStore, points: readonly KeptPoint[]): Promise<number> {
  const { vault } = await reopen(left);
  await using _ = vault;
  await using _reader = vault.openDisk({ root: undefined, sizeBytes: 0 });
  return (await assertPointsRead(vault, points)).length;
}

/** Everything that must hold on a store that a crash left. */
async function assertUsable(left: ObjectStore, points: readonly KeptPoint[]): Promise<number> {
  const { vault, keys } = await reopen(left);
  await using _ = vault;
  // Keeps the threads of all readers below.
  await using _reader = vault.openDisk({ root: undefined, sizeBytes: 0 });
  const there = await assertPointsRead(vault, points);
  const base = there.findLast(({ manifest }) => manifest.itemId === "vm");
  const disks = (base ?? points[0])?.disks.map((disk) => disk.snapshot()) ?? [];
  for (const disk of disks) disk.write(random.integer(0, 400) * page, random.bytes(3 * page));
  const next = await backUp(vault, { itemId: "vm", number: 999, disks, ...(base && { base }) });
  await assertPointReads(vault, next);
  await assertChecksums(vault, { store: left, keys }, next);
  const report = await verifyVault({ store: left, keys, vault, clock: systemClock, workers: 1 });
  assert.deepEqual([report.verdict, report.badObjects], ["sound", []]);
  assert.equal(report.points.length, there.length + 1);
  return there.length;
}

test("vault crash cuts: whatever a crash leaves, committed points read and the next backup succeeds", async () => {
  for (let rounds = isLong ? 20 : 1; rounds > 0; rounds--) {
    const { store, keys, points } = await recordSequence();
    console.log("puts in order:", JSON.stringify(assertWriteOrder(store.events, keys)));
    let stores = 0;
    let cuts = 0;
    let restored = 0;
    for await (const crash of crashesOf(store)) {
      stores++;
      cuts = crash.cuts;
      restored += await (isInSlice(3) ? assertUsable : assertRestores)(crash.left, points);
    }
    console.log(`${cuts} cuts left ${stores} different stores, ${restored} points restored`);
    assert.ok(stores > 25 && restored > 50);
  }
});

test("vault crash cuts: a backup that flushes all the time, with disks side by side", async () => {
  const store = await RecordingStore.open(new SlowStore(createMemoryStore(), random));
  const { keys } = await createVaultFiles(store, {
    secrets: [secret],
    random,
    withRecoveryKey: false,
  });
  const flushLimits = { entries: 20, mapBytes: 2500 };
  const vault = await openTestVault({ store, keys, workers: 1, flushLimits });
  const disks = [16, 24, 9].map((size) => {
    const disk = new MemoryDisk(size * mib);
    for (let at = 0; at < disk.sizeBytes; at += windowBytes) disk.write(at, random.bytes(page));
    return disk;
  });
  const points: KeptPoint[] = [];
  {
    await using _ = vault;
    points.push(await backUp(vault, { itemId: "vm", number: 1, disks }));
    for (const disk of disks) writePages(disk, 3, 2, 1100);
    const [base] = points;
    points.push(await backUp(vault, { itemId: "vm", number: 2, disks, ...(base && { base }) }));
  }
  const checked = assertWriteOrder(store.events, keys);
  console.log(JSON.stringify(checked));
  assert.ok(checked.mapPacks > 4 && checked.segments > 8, "it did flush in between");
  let stores = 0;
  let cuts = 0;
  for await (const crash of crashesOf(store)) {
    stores++;
    cuts = crash.cuts;
    if (isInSlice(8)) await assertUsable(crash.left, points);
  }
  console.log(`${cuts} cuts left ${stores} different stores`);
});

test("vault crash cuts: several packs under way at once leave nothing that harms", async () => {
  const { store, keys, vault } = await createVault({ holdsFirstPack: true });
  const large = new MemoryDisk((isLong ? 200 : 72) * mib);
  for (let at = 0; at < large.sizeBytes; at += mib) large.write(at, random.bytes(mib));
  const points: KeptPoint[] = [];
  {
    await using _ = vault;
    points.push(await backUp(vault, { itemId: "large", number: 1, disks: [large] }));
  }
  const checked = assertWriteOrder(store.events, keys);
  assert.ok(checked.mostInFlight > 1, "puts did overlap");
  let stores = 0;
  let cuts = 0;
  for await (const crash of crashesOf(store)) {
    stores++;
    cuts = crash.cuts;
    const { vault: reopened } = await reopen(crash.left);
    await using _ = reopened;
    await assertPointsRead(reopened, points);
    if (!isLong && random.chance(0.8)) continue;
    // The same disk again: packs that an index segment names are used, the others are not missed.
    const next = await backUp(reopened, { itemId: "large", number: 2, disks: [large] });
    await assertPointReads(reopened, next);
  }
  console.log(`${cuts} cuts left ${stores} different stores; ${JSON.stringify(checked)}`);
});
