// Goal: a host that has seen a vault notices that the store is behind, and is not alarmed by anything
// that sessions, collections and changes of keys do.
// Method: real vaults in memory; stores that are put back to what they were, wholly or in part.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { ledgerGenerationMax } from "#formats/ledger-part.ts";
import { packName } from "#formats/store-names.ts";
import type { VaultMemory } from "#formats/vault-memory.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { compactInventory, putInventoryPart } from "#vault/inventory/inventory.ts";
import { rotateVaultKeys } from "#vault/key-changes.ts";
import { createRecoveryKey, type HeldSecret } from "#vault/key-secret.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { createVaultFiles, openVaultFiles } from "#vault/vault-files.ts";
import { verifyStore } from "#vault/verify-store.ts";

import { lookBack } from "./look-back.ts";

const random = createSeededRandom("look back");

interface World {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly secret: HeldSecret;
}

async function createWorld(): Promise<World> {
  const store = createMemoryStore();
  const secret = createRecoveryKey(random).secret;
  const { keys } = await createVaultFiles(store, {
    secrets: [secret],
    random,
    withRecoveryKey: false,
  });
  return { store, keys, secret };
}

/** The objects of now in a store of their own. */
async function copyOf({ store, ...world }: World): Promise<World> {
  const objects = new Map<string, Uint8Array>();
  for await (const { name } of store.list("")) objects.set(name, await store.get(name));
  return { ...world, store: createMemoryStore(objects) };
}

/** So many sessions that add one object each, and a collection each `compacting` of them. */
async function work(world: World, sessions: number, compacting = Infinity): Promise<void> {
  for (let at = 1; at <= sessions; at++) {
    const object = { name: packName(random.bytes(32)), sizeBytes: 5 };
    await putInventoryPart(world, { added: [object] });
    if (at % compacting === 0) await compactInventory(world, { partsMin: 2 });
  }
}

async function remember(world: World): Promise<VaultMemory> {
  const { memory } = await lookBack({ ...world, vaultId: world.keys.vaultId }, []);
  return memory;
}

async function namesOf(world: World, memory: VaultMemory): Promise<readonly string[]> {
  const { setBack } = await lookBack({ ...world, vaultId: world.keys.vaultId }, [memory]);
  return setBack.map(({ name }) => name);
}

test("look back: nothing that sessions, collections and changes of keys do is an alarm", async () => {
  const world = await createWorld();
  let memory = await remember(world);
  for (let round = 0; round < 12; round++) {
    await work(world, random.integer(1, 20), random.integer(1, 6));
    if (round % 3 === 0) {
      const deps = { store: world.store, random };
      const files = await openVaultFiles(world.store, world.secret);
      await rotateVaultKeys(deps, files, { dataKey: true, wrapping: [] });
    }
    assert.deepEqual(await namesOf(world, memory), []);
    if (random.chance(0.6)) memory = await remember(world);
  }
});

test("look back: a store that is put back to an older state is behind, whoever writes to it then", async () => {
  const world = await createWorld();
  await work(world, 3);
  const old = await copyOf(world);
  await work(world, 2);
  const memory = await remember(world);
  const newest = memory.parts.slice(0, 2);
  assert.equal((await namesOf(old, memory)).length, newest.length);
  await work(old, 4);
  assert.equal((await namesOf(old, memory)).length, newest.length, "other parts of those numbers");
  await work(old, 4, 2);
  assert.equal((await namesOf(old, memory)).length, newest.length, "and after a collection");
  assert.deepEqual(await namesOf(world, memory), []);
});

test("look back: the newest part alone is missed, and so is a whole inventory", async () => {
  const world = await createWorld();
  await work(world, 4);
  const memory = await remember(world);
  const names: string[] = [];
  for await (const { name } of world.store.list("inventory/")) names.push(name);
  await world.store.remove(names.sort().at(-1) ?? "");
  assert.deepEqual(await namesOf(world, memory), [names.at(-1)]);
  for (const name of names) await world.store.remove(name);
  assert.deepEqual((await namesOf(world, memory)).toSorted(), names);
});

test("look back: a host that was away for more collections than lines live is not alarmed", async () => {
  const world = await createWorld();
  await work(world, 4);
  const memory = await remember(world);
  for (let at = 0; at <= ledgerGenerationMax + 2; at++) await work(world, 3, 3);
  assert.deepEqual(await namesOf(world, memory), []);
});

test("look back: key records that are gone, or others than before, are missed", async () => {
  const world = await createWorld();
  const deps = (of: World): { store: ObjectStore; random: typeof random } => ({
    store: of.store,
    random,
  });
  const rotate = async (of: World): Promise<void> => {
    const files = await openVaultFiles(of.store, of.secret);
    await rotateVaultKeys(deps(of), files, { dataKey: true, wrapping: [] });
  };
  const old = await copyOf(world);
  await rotate(world);
  const memory = await remember(world);
  assert.equal(memory.record?.number, 2);
  const [name, ...more] = await namesOf(old, memory);
  assert.match(name ?? "", /^ring\/[0-9a-f]{32}-00000002$/);
  assert.deepEqual(more, []);
  await rotate(old);
  assert.deepEqual(await namesOf(old, memory), [name], "another change took the number");
  await rotate(old);
  assert.deepEqual(await namesOf(old, memory), [name]);
  await rotate(world);
  assert.deepEqual(await namesOf(world, memory), []);
});

test("look back: without memory or key, a slot, a record in the middle and an epoch without record are missed", async () => {
  const world = await createWorld();
  const secondEpoch = await openVaultFiles(world.store, world.secret);
  await rotateVaultKeys({ store: world.store, random }, secondEpoch, {
    dataKey: true,
    wrapping: [],
  });
  const { keys } = await openVaultFiles(world.store, world.secret);
  await work({ ...world, keys }, 1);
  const bad = async (without: RegExp): Promise<readonly string[]> => {
    const { store } = await copyOf(world);
    for await (const { name } of store.list("")) if (without.test(name)) await store.remove(name);
    const options = { store, vaultId: keys.vaultId, depth: "objects", clock: systemClock } as const;
    const { badObjects } = await verifyStore(options);
    // The inventory names packs that were never put here.
    return badObjects.flatMap(({ name }) => (name.startsWith("packs/") ? [] : [name]));
  };
  assert.deepEqual(await bad(/^none/), []);
  assert.match((await bad(/^keys\//)).join(), /^keys\/[0-9a-f]{64}$/);
  assert.match((await bad(/^ring\/.*-00000001/)).join(), /^ring\/[0-9a-f]+-00000001$/);
  assert.match((await bad(/^ring\/.*-00000002/)).join(), /^ring\/[0-9a-f]+-00000002$/);
});
