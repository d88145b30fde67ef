// Goal: once a backup has stored again what a damaged pack held, a collection keeps the good copy and
// removes the damaged pack; and a pack that is lost together with the index segment that names it, so that
// no listing misses it, is missed all the same.
// Method: a vault in memory whose objects are damaged behind its back; which of two packs marking would
// find first depends on the order in which segments are listed, so each case runs with both.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { windowBytes } from "#formats/geometry.ts";
import { indexSegmentName, packName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit, replaceObject } from "#testing/damage.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import { verifyVault } from "#vault/verify.ts";

const rounds = 2;
const random = createSeededRandom("heal collect");

class World {
  readonly store = createMemoryStore();
  readonly #disk = new MemoryDisk(8 * windowBytes);
  readonly #points: KeptPoint[] = [];

  /** A vault of one full point. */
  static async create(): Promise<World> {
    const world = new World();
    world.#disk.write(0, random.bytes(8 * windowBytes));
    await world.backUp();
    return world;
  }

  /** Every use is that of another host, which remembers nothing, or of one with a cache. */
  async backUp(cacheDirectory?: string): Promise<void> {
    const { store } = this;
    const cache = cacheDirectory === undefined ? {} : { cacheDirectory };
    await using vault = await openTestVault({ store, ...cache });
    const base = this.#points.at(-1);
    const what = { itemId: "vm", number: this.#points.length + 1, disks: [this.#disk] };
    this.#points.push(await backUp(vault, { ...what, ...(base && { base }) }));
  }

  async collect(): Promise<void> {
    await using vault = await openTestVault({ store: this.store });
    await vault.collect({ allowMassDeletion: true });
  }

  async verify(): Promise<string> {
    const { store } = this;
    await using vault = await openTestVault({ store });
    const options = { store, keys: testKeys, vault, clock: systemClock, workers: 1 };
    return (await verifyVault({ ...options, record: true })).pointsVerdict;
  }

  async assertReads(): Promise<void> {
    await using vault = await openTestVault({ store: this.store });
    for (const point of this.#points) await assertPointReads(vault, point);
  }

  /** Segments that name a pack. */
  async segmentsOf(pack: string): Promise<readonly string[]> {
    await using vault = await openTestVault({ store: this.store });
    await vault.examine();
    const names: string[] = [];
    for await (const { head, segmentName } of vault.index.packExtents()) {
      if (packName(head.name) === pack) names.push(indexSegmentName(segmentName));
    }
    return names;
  }
}

const damages: Readonly<Record<string, (store: ObjectStore, pack: string) => Promise<void>>> = {
  "a changed pack": async (store, pack) => await flipObjectBit(store, pack, 8 * 90),
  "a short pack": async (store, pack) =>
    await replaceObject(store, pack, (await store.get(pack)).slice(0, windowBytes)),
};

for (const [what, damage] of Object.entries(damages)) {
  test(`heal and collect: ${what} goes, the copy of its blocks stays`, async () => {
    for (let round = 0; round < rounds; round++) {
      const world = await World.create();
      const [pack = ""] = await namesOf(world.store, "packs/");
      await damage(world.store, pack);
      assert.equal(await world.verify(), "damaged");
      await world.backUp();
      await world.assertReads();
      assert.equal((await namesOf(world.store, "packs/")).length, 2);
      if (round % 2 === 1) await listFirstLast(world.store, "index/");
      await world.collect();
      await world.assertReads();
      const left = await namesOf(world.store, "packs/");
      assert.ok(left.length === 1 && !left.includes(pack), "the good one is left");
    }
  });
}

for (const [host, hasCache] of [
  ["a new host", false],
  ["a host that knew it", true],
] as const) {
  test(`heal: a pack that is lost with the segment that names it is missed by the next backup of ${host}`, async () => {
    await using folder = await createTempFolder();
    const cache = hasCache ? folder.path : undefined;
    const world = await World.create();
    await world.backUp(cache);
    const [pack = ""] = await namesOf(world.store, "packs/");
    for (const segment of await world.segmentsOf(pack)) await world.store.remove(segment);
    await world.store.remove(pack);
    await world.backUp(cache);
    await world.assertReads();
  });
}

/** Puts objects anew in the order of now, reversed: the store lists them in the order of their puts. */
async function listFirstLast(store: ObjectStore, prefix: string): Promise<void> {
  for (const name of (await listed(store, prefix)).reverse()) {
    await replaceObject(store, name, await store.get(name));
  }
}

async function namesOf(store: ObjectStore, prefix: string): Promise<readonly string[]> {
  return (await listed(store, prefix)).toSorted();
}

async function listed(store: ObjectStore, prefix: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list(prefix)) names.push(name);
  return names;
}
