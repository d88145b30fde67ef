/**
 * Goal: damage in the primary does not travel, holds back the points that it touches and no others, and
 * is healed from the secondary; damage in the secondary is healed from the primary.
 * Method: every object of a small vault in turn is flipped or removed, before the first replication
 * and after it; what gets over must restore; after healing both stores hold what they held.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { containerHeaderBytes } from "#formats/container.ts";
import { parseStoreName, pointName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import { healVault } from "#vault/heal.ts";
import { replicateVault } from "#vault/replicate.ts";
import {
  assertCopyReads,
  assertCopySound,
  assertCopyWhole,
  contentOf,
  copyOptions,
  type CopyWorld,
  createCopyWorld,
  idsOf,
} from "./copy-world.ts";

const mib = 1024 * 1024;
const random = createSeededRandom("copy damage");
const isLong = process.env["KLUIS_LONG"] === "1";

/** What is done to an object. */
type Harm = "flip" | "remove";

const harms = ["flip", "remove"] as const;

async function harm(store: ObjectStore, name: string, kind: Harm): Promise<void> {
  if (kind === "remove") {
    await store.remove(name);
    return;
  }
  const info = await store.stat(name);
  await flipObjectBit(store, name, random.integer(0, 8 * (info?.sizeBytes ?? 1) - 1));
}

/** Names of objects of some kinds. */
async function namesOf(
  store: ObjectStore,
  ...kinds: readonly string[]
): Promise<readonly string[]> {
  const names = [...(await contentOf(store)).keys()].sort();
  return names.filter((name) => kinds.includes(parseStoreName(name)?.kind ?? ""));
}

function withPrimary(world: CopyWorld, content: ReadonlyMap<string, Uint8Array>): CopyWorld {
  return { ...world, primary: createMemoryStore(content) };
}

test("copy damage: holds back the points that damage touches, and copies all others", async () => {
  const world = await createCopyWorld(random);
  const sound = await contentOf(world.primary);
  let heldBack = 0;
  let cases = 0;
  for (const name of await namesOf(
    world.primary,
    "pack",
    "map-pack",
    "index-segment",
    "manifest",
  )) {
    for (const kind of isLong ? harms : [random.pick(harms)]) {
      const isManifest = parseStoreName(name)?.kind === "manifest";
      // A manifest that is not there is no damage: the point was deleted.
      if (isManifest && kind === "remove") continue;
      const hurt = withPrimary(world, sound);
      await harm(hurt.primary, name, kind);
      const secondary = createMemoryStore();
      const report = await replicateVault(copyOptions(hurt, secondary));
      const there = await assertCopyWhole(secondary, world, cases % 5 === 0);
      const held = report.heldBack.map(({ pointId }) => pointId);
      assert.deepEqual([...there, ...held].sort(), idsOf(world.points), `${kind} of ${name}`);
      if (kind === "flip") assert.ok(report.damaged.some((object) => object.name === name));
      if (isManifest) assert.equal(held.length, 1);
      assert.equal(report.lag.points, held.length);
      heldBack += held.length;
      cases++;
      // Once the primary is whole again, the same command brings the rest.
      const after = await replicateVault(copyOptions(world, secondary));
      assert.deepEqual([after.heldBack, after.damaged, after.lag.bytes], [[], [], 0]);
      assert.deepEqual(await assertCopyWhole(secondary, world, false), idsOf(world.points));
    }
  }
  console.log(`${cases} kinds of damage, ${heldBack} points held back until it was repaired`);
  assert.ok(cases > 10 && heldBack > 0 && heldBack < cases * world.points.length);
});

test("copy damage: any flipped bit in the header of a manifest is that of one point", async () => {
  const world = await createCopyWorld(random);
  const sound = await contentOf(world.primary);
  const [manifest = ""] = await namesOf(world.primary, "manifest");
  for (let byte = 0; byte < containerHeaderBytes; byte++) {
    const store = createMemoryStore(sound);
    await flipObjectBit(store, manifest, 8 * byte + random.integer(0, 7));
    const secondary = createMemoryStore();
    const report = await replicateVault(copyOptions({ ...world, primary: store }, secondary));
    const held = report.heldBack.map(({ item, pointId }) => pointName(item, pointId));
    assert.deepEqual(held, [manifest], `byte ${byte}`);
    const healing = { ...copyOptions(world, secondary), store, copy: createMemoryStore(sound) };
    const { healed, unhealed } = await healVault(healing);
    const names = unhealed.map(({ name }) => name);
    assert.deepEqual([healed, names], [[], [manifest]], `byte ${byte}`);
  }
});

test("copy damage: what the secondary lost since a point got there holds back the next one", async () => {
  const world = await createCopyWorld(random);
  const { primary, keys } = world;
  const disk = new MemoryDisk(8 * mib);
  disk.write(0, random.bytes(8 * mib));
  const commit = async (number: number, base?: KeptPoint): Promise<KeptPoint> => {
    await using vault = await openTestVault({ store: primary, keys });
    return await backUp(vault, { itemId: "big", number, disks: [disk], ...(base && { base }) });
  };
  const before = new Set(await namesOf(primary, "pack"));
  const first = await commit(8);
  const [lost = ""] = (await namesOf(primary, "pack")).filter((name) => !before.has(name));
  const secondary = createMemoryStore();
  await replicateVault(copyOptions(world, secondary));
  // The second point has the first two leaves of the map anew, and shares the rest with the first.
  disk.write(0, random.bytes(4 * mib));
  const second = await commit(9, first);
  // Gone from the secondary, and damaged in the primary: nothing brings it back.
  await secondary.remove(lost);
  await harm(primary, lost, "flip");
  const report = await replicateVault(copyOptions(world, secondary));
  assert.deepEqual(
    report.heldBack.map(({ pointId }) => pointId),
    [second.manifest.pointId],
  );
});

test("copy damage: either store is healed from the other one", async () => {
  const world = await createCopyWorld(random);
  const { keys } = world;
  const second = createMemoryStore();
  await replicateVault(copyOptions(world, second));
  const pair = [await contentOf(world.primary), await contentOf(second)] as const;
  const kinds = ["vault-header", "slot", "key-record", "pack", "map-pack", "index-segment"];
  let cases = 0;
  for (const name of await namesOf(world.primary, ...kinds)) {
    for (const kind of ["flip", "remove"] as const) {
      for (const side of isLong ? ([0, 1] as const) : [random.pick([0, 1] as const)]) {
        const store = createMemoryStore(pair[side]);
        const copy = createMemoryStore(pair[1 - side]);
        await harm(store, name, kind);
        const report = await healVault({ ...copyOptions(world, copy), store, copy });
        assert.deepEqual(report.unhealed, [], `${kind} of ${name}`);
        const was = kind === "flip" ? "damaged" : "missing";
        assert.deepEqual(report.healed, [{ name, was }], `${kind} of ${name}`);
        assert.deepEqual(await contentOf(store), pair[side]);
        assert.deepEqual(await contentOf(copy), pair[1 - side], "the copy is only read");
        if (cases++ % 7 === 0) await assertCopySound(store, { keys });
      }
    }
  }
  console.log(`${cases} objects healed from the other store`);
});

test("copy damage: heals everything at once, and names what neither store has", async () => {
  const world = await createCopyWorld(random);
  const { primary, keys } = world;
  const copy = createMemoryStore();
  await replicateVault(copyOptions(world, copy));
  const names = await namesOf(primary, "pack", "map-pack", "index-segment");
  for (const name of names) await harm(primary, name, random.pick(["flip", "remove"]));
  const options = { ...copyOptions(world, copy), store: primary, copy };
  const report = await healVault(options);
  assert.deepEqual(report.unhealed, []);
  await assertCopySound(primary, { keys });
  assert.deepEqual(await assertCopyReads(primary, world), idsOf(world.points));

  const [lost = ""] = await namesOf(primary, "pack");
  const [manifest = ""] = await namesOf(primary, "manifest");
  for (const store of [primary, copy]) await harm(store, lost, "flip");
  await harm(primary, manifest, "flip");
  const { healed, unhealed } = await healVault(options);
  assert.deepEqual([healed, unhealed.map(({ name }) => name)], [[], [lost, manifest]]);
});

test("copy damage: refuses to heal a place that is not known to be this vault", async () => {
  const world = await createCopyWorld(random);
  const other = await createCopyWorld(random);
  const foreign = createMemoryStore();
  await foreign.put("a/b", [new Uint8Array(9)]);
  for (const store of [createMemoryStore(), foreign, other.primary]) {
    const before = await contentOf(store);
    const options = { ...copyOptions(world, store), store, copy: world.primary };
    await assert.rejects(healVault(options), (error) => isKluisError(error));
    assert.deepEqual(await contentOf(store), before);
  }
});

test("copy damage: a healing that dies anywhere leaves nothing that the next one does not heal", async () => {
  const world = await createCopyWorld(random);
  const copy = createMemoryStore();
  await replicateVault(copyOptions(world, copy));
  const sound = await contentOf(world.primary);
  const names = await namesOf(world.primary, "pack", "map-pack", "index-segment");
  let cases = 0;
  const damaged = createMemoryStore(sound);
  for (const name of names) await harm(damaged, name, "flip");
  const hurt = await contentOf(damaged);
  for (let after = 0; ; after++) {
    const store = new FaultyStore(createMemoryStore(hurt));
    const options = { ...copyOptions(world, copy), store, copy };
    const error = new KluisError("StoreDenied", "Cannot write: the test forbids it");
    for (const method of ["put", "remove"] as const) {
      store.inject({ method, after, times: 1, fault: { kind: "error", error } });
    }
    const isCut = await healVault(options).then(
      () => false,
      (reason: unknown) => isKluisError(reason, "StoreDenied"),
    );
    store.heal();
    assert.deepEqual((await healVault(options)).unhealed, []);
    const left = await contentOf(store);
    for (const [name, bytes] of sound) assert.deepEqual(left.get(name), bytes, name);
    cases++;
    if (!isCut) break;
  }
  console.log(`${cases} healings that broke off`);
  assert.ok(cases >= names.length);
});
