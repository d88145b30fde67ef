// Goal: through months of backups, prunings and collections of a WORM vault everything that a point
// needs is locked for a whole period from its backup, nobody can remove it, and space is freed at last.
// Method: a bucket with object lock in memory and time moved by hand; locks are read from the bucket.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { createMemoryWormStore, type MemoryWormOptions } from "#drivers/store/memory-worm-store.ts";
import { packPrefix } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";

const dayMs = 24 * 3600 * 1000;
const mib = 1024 * 1024;
const policy = { periodMs: 14 * dayMs, generationMs: 10 * dayMs };
const isLong = process.env["KLUIS_LONG"] === "1";
/** In fewer than 60 a life may end before the first lock that nobody extends has run out. */
const days = isLong ? 365 : 60;
const keptPoints = 5;

function packBytes(world: MemoryWormOptions): number {
  let bytes = 0;
  for (const [key, [version]] of world.versions) {
    if (key.startsWith(packPrefix)) bytes += version?.content?.byteLength ?? 0;
  }
  return bytes;
}

/** Deletes the oldest points down to so many, as far as they may go. */
async function prune(vault: Vault, kept: KeptPoint[], now: number): Promise<number> {
  let refused = 0;
  for (const name of (await vault.listPoints()).slice(0, -keptPoints)) {
    const at = kept.findIndex(({ manifest }) => manifest.pointId === name.pointId);
    const point = kept[at];
    assert.ok(point !== undefined);
    const ageMs = now - point.manifest.takenAtMs * dayMs;
    try {
      await vault.deletePoint(name);
      assert.ok(ageMs >= policy.periodMs, "nothing is deleted within the period");
      kept.splice(at, 1);
    } catch (error) {
      assert.ok(isKluisError(error, "ObjectLocked"), String(error));
      assert.ok(ageMs <= policy.periodMs + policy.generationMs, "a point can go at last");
      refused++;
    }
  }
  return refused;
}

test("WORM life: months of backups, prunings and collections lock what is needed and free the rest", async () => {
  const random = createSeededRandom("worm life");
  const clock = new ManualClock(0);
  const control = createMemoryStore();
  const world: MemoryWormOptions = { policy, clock, versions: new Map(), control };
  const disk = new MemoryDisk(4 * mib);
  disk.write(0, random.bytes(3 * mib));
  const kept: KeptPoint[] = [];
  let refused = 0;
  let putBytes = 0;
  let freedBytes = 0;
  for (let day = 0; day < days; day += 3) {
    await using vault = await openTestVault({ store: createMemoryWormStore(world) });
    disk.write(random.integer(0, 3) * mib, random.bytes(mib / 2));
    const base = kept.at(-1);
    const size = packBytes(world);
    kept.push(
      await backUp(vault, { itemId: "vm", number: day, disks: [disk], ...(base && { base }) }),
    );
    putBytes += packBytes(world) - size;
    const left = packBytes(world);
    refused += await prune(vault, kept, clock.nowMs());
    await vault.collect({ allowMassDeletion: true, unusedShare: 0 });
    freedBytes += Math.max(0, left - packBytes(world));
    // What no lock holds for a period from now, an attacker removes then: it must not be needed.
    const spared = new Map(
      [...world.versions].filter(([key, [version]]) => {
        const isContent = /^(packs|maps|index)\//.test(key);
        return !isContent || (version?.lockedUntilMs ?? 0) >= clock.nowMs() + policy.periodMs;
      }),
    );
    const robbed = { ...world, versions: spared, control: undefined };
    await using reader = await openTestVault({ store: createMemoryWormStore(robbed) });
    for (const point of kept) await assertPointReads(reader, point);
    await clock.advance(3 * dayMs);
  }
  console.log(
    `WORM life: ${days} days, ${refused} deletions refused, ${Math.round(freedBytes / 1024)} of ` +
      `${Math.round(putBytes / 1024)} KiB of packs freed, ${kept.length} points kept`,
  );
  // What is put in the last period and two generations can be freed only later.
  assert.ok(refused > 0 && freedBytes > (isLong ? putBytes / 3 : 0));
});

test("WORM life: a backup whose garbage is collected under it, its record wiped, is not acknowledged", async () => {
  const clock = new ManualClock(0);
  const control = createMemoryStore();
  const world: MemoryWormOptions = { policy, clock, versions: new Map(), control };
  const content = createSeededRandom("worm crossed").bytes(2 * mib);
  const disk = new MemoryDisk(2 * mib);
  disk.write(0, content);
  await using vault = await openTestVault({ store: createMemoryWormStore(world) });
  await backUp(vault, { itemId: "old", number: 1, disks: [disk] });
  const [old] = await vault.listPoints();
  assert.ok(old !== undefined);
  await clock.advance(policy.periodMs + policy.generationMs);
  await vault.deletePoint(old);
  // The backup finds its blocks in the garbage; when it commits, the packs are gone.
  const store = createMemoryWormStore(world);
  const crossed: ObjectStore = {
    location: store.location,
    ...(store.locks === undefined ? {} : { locks: store.locks }),
    put: async (name, parts, signal) => {
      const outcome = await store.put(name, parts, signal);
      if (name.startsWith("points/")) {
        for (const key of world.versions.keys()) {
          if (key.startsWith(packPrefix)) await store.remove(key);
        }
      }
      return outcome;
    },
    get: (name, range, signal) => store.get(name, range, signal),
    stat: (name, signal) => store.stat(name, signal),
    list: (prefix, signal) => store.list(prefix, signal),
    remove: (name, signal) => store.remove(name, signal),
    probe: (signal) => store.probe(signal),
  };
  await using writer = await openTestVault({ store: crossed });
  await assert.rejects(backUp(writer, { itemId: "new", number: 2, disks: [disk] }), (error) => {
    assert.ok(isKluisError(error, "ObjectNotFound"));
    assert.match(error.message, /^Cannot acknowledge the recovery point/);
    return true;
  });
});
