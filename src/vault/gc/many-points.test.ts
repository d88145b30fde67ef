// Goal: what a backup asks of the store does not grow with the number of recovery points, as long as
// the vault is collected now and then. Method: count requests and names of listings on the store.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import { smallPacksLeft, smallPacksMax } from "#vault/limits.ts";

const page = 4096;
const diskPages = 256;
/** Each puts two small packs. */
const manyPoints = smallPacksMax / 2 + 8;
const random = createSeededRandom("many points");

interface Asked {
  /** Listings by their prefix. */
  readonly listings: Map<string, number>;
  names: number;
  reads: number;
}

/** A store that counts what it is asked. */
function countingStore(store: ObjectStore, asked: Asked): ObjectStore {
  return {
    location: store.location,
    put: (...given) => store.put(...given),
    remove: (...given) => store.remove(...given),
    probe: (...given) => store.probe(...given),
    get: (...given) => {
      asked.reads++;
      return store.get(...given);
    },
    stat: (...given) => {
      asked.reads++;
      return store.stat(...given);
    },
    async *list(prefix, signal) {
      asked.listings.set(prefix, (asked.listings.get(prefix) ?? 0) + 1);
      for await (const info of store.list(prefix, signal)) {
        asked.names++;
        yield info;
      }
    },
  };
}

test("many points: a backup lists packs and segments once, and little more after many points", async () => {
  const asked: Asked = { listings: new Map(), names: 0, reads: 0 };
  await using vault = await openTestVault({ store: countingStore(createMemoryStore(), asked) });
  const disk = new MemoryDisk(diskPages * page);
  disk.write(0, random.bytes(diskPages * page));
  const kept: KeptPoint[] = [];
  const next = async (): Promise<Asked> => {
    disk.write(random.integer(0, diskPages - 1) * page, random.bytes(page));
    Object.assign(asked, { names: 0, reads: 0 });
    asked.listings.clear();
    const base = kept.at(-1);
    const options = { itemId: "vm", number: kept.length + 1, disks: [disk] };
    kept.push(await backUp(vault, { ...options, ...(base && { base }) }));
    return { ...asked, listings: new Map(asked.listings) };
  };
  await next();
  const second = await next();
  for (const prefix of ["packs/", "maps/", "index/"]) {
    assert.equal(second.listings.get(prefix), 1, `"${prefix}" is listed once`);
  }
  while (kept.length < manyPoints) await next();
  const many = await next();
  assert.ok(many.names > 5 * second.names, `${many.names} names before the collection`);
  const report = await vault.collect();
  assert.equal(report.end, "done");
  const merged = report.plan?.packs.length ?? 0;
  assert.ok(merged > smallPacksMax - smallPacksLeft, `${merged} small packs were merged`);
  const after = await next();
  console.log(
    `names ${second.names}, ${many.names}, ${after.names}; reads ${second.reads}, ${after.reads}`,
  );
  const namesMax = 2 * second.names + smallPacksLeft;
  assert.ok(after.names <= namesMax, `${after.names} names were listed, at most ${namesMax}`);
  assert.ok(after.reads <= 2 * second.reads, `${after.reads} reads, then ${second.reads}`);
  assert.equal((await vault.collect()).end, "nothing-to-do");
  for (const point of kept.filter((_, at) => at % 16 === 0)) await assertPointReads(vault, point);
});
