/**
 * Goal: key records and key slots are healed from their twins and from the other store, whatever breaks
 * the healing off; nothing forged is brought, no key that was removed comes back, and what is lost is named.
 * Method: a vault whose keys were changed a few times, and its secondary; records and slots are damaged
 * or removed, alone and together; afterwards every key that should open it does.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { systemRandom } from "#base/random.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { keyRecordPrefix, slotPrefix } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit, replaceObject } from "#testing/damage.ts";
import { FaultyStore } from "#testing/faulty-store.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { healVault } from "#vault/heal.ts";
import { addVaultKey, removeVaultKeys, rotateVaultKeys } from "#vault/key-changes.ts";
import { createKeyFileSecret, createRecoveryKey, type KeySecret } from "#vault/key-secret.ts";
import { sealKeyRecord } from "#vault/keys/records.ts";
import { replicateVault } from "#vault/replicate.ts";
import { createVaultFiles, openVaultFiles } from "#vault/vault-files.ts";
import { verifyStore } from "#vault/verify-store.ts";
import { contentOf } from "./copy-world.ts";

const random = createSeededRandom("copy keys");

interface KeyWorld {
  readonly store: ObjectStore;
  readonly copy: ObjectStore;
  readonly host: KeySecret;
  readonly recovery: KeySecret;
  /** Removed by the last change but one. */
  readonly gone: KeySecret;
  /** Its slot as it was. */
  readonly goneSlot: readonly [string, Uint8Array];
}

/** A vault with four key records, three epochs and two keys, and its secondary. */
async function createKeyWorld(): Promise<KeyWorld> {
  const store = createMemoryStore();
  const host = createKeyFileSecret(random).secret;
  const gone = createKeyFileSecret(random).secret;
  const recovery = createRecoveryKey(random).secret;
  await createVaultFiles(store, { secrets: [host, recovery], random, withRecoveryKey: false });
  const deps = { store, random };
  const { name } = await addVaultKey(deps, await openVaultFiles(store, host), gone);
  const goneSlot = [name, await store.get(name)] as const;
  const removal = { newEpoch: true };
  await removeVaultKeys(deps, await openVaultFiles(store, host), [name], removal);
  const rotation = { dataKey: true, wrapping: [] };
  await rotateVaultKeys(deps, await openVaultFiles(store, host), rotation);
  const { keys } = await openVaultFiles(store, host);
  const copy = createMemoryStore();
  const common = { keys, clock: systemClock, random: systemRandom };
  await replicateVault({ ...common, primary: store, secondary: copy });
  return { store, copy, host, recovery, gone, goneSlot };
}

async function heal({ copy, host }: KeyWorld, store: ObjectStore) {
  const { keys } = await openVaultFiles(copy, host);
  return await healVault({ store, copy, keys, clock: systemClock, random: systemRandom });
}

async function namesOf(store: ObjectStore, prefix: string): Promise<readonly string[]> {
  return [...(await contentOf(store, (name) => name.startsWith(prefix))).keys()].sort();
}

/** Every key that should open the vault does, with all its epochs; the removed one does not. */
async function assertOpens(world: KeyWorld, store: ObjectStore): Promise<void> {
  for (const secret of [world.host, world.recovery]) {
    const { keys } = await openVaultFiles(store, secret);
    assert.deepEqual(
      keys.epochs.map(({ epoch }) => epoch),
      [1, 2, 3],
    );
  }
  await assert.rejects(openVaultFiles(store, world.gone), (error) =>
    isKluisError(error, "KeyWrong"),
  );
}

test("copy keys: records and slots come back, alone and all at once, whatever breaks it off", async () => {
  const world = await createKeyWorld();
  const sound = await contentOf(world.store);
  const records = await namesOf(world.store, keyRecordPrefix);
  const slots = await namesOf(world.store, slotPrefix);
  assert.deepEqual([records.length, slots.length], [8, 2]);
  let cases = 0;
  for (let round = 0; round < 12; round++) {
    const hurt = createMemoryStore(sound);
    const chosen =
      round === 0
        ? [...records, ...slots]
        : [...records, ...slots].filter(() => random.chance(0.5));
    for (const name of chosen) {
      // Without any name of the highest number nobody can tell that there was one.
      if (slots.includes(name) || name === records.at(-1) || random.chance(0.5)) {
        await flipObjectBit(hurt, name, random.integer(0, 800));
      } else await hurt.remove(name);
    }
    const before = await contentOf(hurt);
    for (let after = 0; ; after++) {
      const store = new FaultyStore(createMemoryStore(before));
      const error = new KluisError("StoreDenied", "Cannot write: the test forbids it");
      for (const method of ["put", "remove"] as const) {
        store.inject({ method, after, times: 1, fault: { kind: "error", error } });
      }
      const isCut = await heal(world, store).then(
        () => false,
        (reason: unknown) => isKluisError(reason, "StoreDenied"),
      );
      store.heal();
      const report = await heal(world, store);
      assert.deepEqual(report.unhealed, []);
      if (!isCut) assert.deepEqual(report.healed, [], "a second healing finds nothing to do");
      assert.deepEqual(await contentOf(store), sound);
      cases++;
      if (!isCut) break;
    }
  }
  console.log(`${cases} healings of keys, most of them broken off`);
  await assertOpens(world, createMemoryStore(sound));
});

test("copy keys: what neither store has is named with the way in that is lost", async () => {
  const world = await createKeyWorld();
  const slots = await namesOf(world.store, slotPrefix);
  const records = await namesOf(world.store, keyRecordPrefix);
  const newest = records.filter((name) => name.includes("00000004"));
  const older = records.filter((name) => name.includes("00000002"));
  const hostSlot = await openVaultFiles(world.store, world.host);
  const keys = hostSlot.keys;
  const lostSlot = slots.find((name) => name !== hostSlot.opened.slot.name) ?? "";
  for (const store of [world.store, world.copy]) {
    for (const name of [...newest, ...older]) await flipObjectBit(store, name, 90);
    // The last bytes of a slot seal its ring; its type stands in front.
    const bits = 8 * (await store.get(lostSlot)).byteLength;
    await flipObjectBit(store, lostSlot, bits - 40);
  }
  const { store, copy } = world;
  const report = await healVault({ store, copy, keys, clock: systemClock, random: systemRandom });
  const reasons = new Map(report.unhealed.map(({ name, reason }) => [name, reason]));
  assert.deepEqual([...reasons.keys()].sort(), [...newest, ...older, lostSlot].sort());
  for (const name of newest) assert.match(reasons.get(name) ?? "", /keys that change 4 added/);
  for (const name of older) assert.match(reasons.get(name) ?? "", /nothing is lost/);
  assert.match(reasons.get(lostSlot) ?? "", /the recovery key that it belongs to opens .* no more/);
  const { vaultId } = keys;
  const shown = await verifyStore({ store, vaultId, depth: "structure", clock: systemClock });
  const slot = shown.badObjects.find(({ name }) => name === lostSlot);
  assert.match(slot?.reason ?? "", /the recovery key that it belongs to opens this vault no more/);
});

test("copy keys: no forged record is brought, and no key that was removed comes back", async () => {
  const world = await createKeyWorld();
  const { store, copy, goneSlot } = world;
  const records = await namesOf(store, keyRecordPrefix);
  const newest = records.filter((name) => name.includes("00000004"));
  const { opened } = await openVaultFiles(store, world.host);
  const ring = { ...opened.ring, epochs: opened.ring.epochs.map((epoch) => ({ ...epoch })) };
  for (const epoch of ring.epochs) epoch.masterKey = random.bytes(32);
  const slots = opened.records.newest?.slots ?? [];
  const listed = slots.map(({ slot: hash, publicKey }) => ({ hash, publicKey }));
  const forged = sealKeyRecord(ring, { number: 4, slots: listed }, random);
  const keys = (await openVaultFiles(copy, world.host)).keys;
  for (const name of newest) {
    await flipObjectBit(store, name, 90);
    await replaceObject(copy, name, forged);
  }
  await copy.put(goneSlot[0], [goneSlot[1]]);
  const options = { store, copy, keys, clock: systemClock, random: systemRandom };
  const report = await healVault(options);
  assert.deepEqual(report.unhealed.map(({ name }) => name).sort(), newest);
  assert.equal(await store.stat(goneSlot[0]), undefined);
});
