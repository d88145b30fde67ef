// Goal: changes of keys do what they say: added keys open, removed ones do not, epochs rotate under every
// key that stays, whether its secret is at hand or not, and hosts that change keys at once lose nothing.
import assert from "node:assert/strict";
import { test } from "node:test";

import { present } from "#base/assert.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { addVaultKey, findSlotName, removeVaultKeys, rotateVaultKeys } from "./key-changes.ts";
import {
  createKeyFileSecret,
  createRecoveryKey,
  type HeldSecret,
  type KeySecret,
} from "./key-secret.ts";
import {
  createVaultFiles,
  listVaultKeys,
  type OpenedVault,
  openVaultFiles,
} from "./vault-files.ts";

const random = createSeededRandom("key changes");
const dataKey = { dataKey: true, wrapping: [] };

interface World {
  readonly store: ObjectStore;
  readonly host: HeldSecret;
  readonly recovery: HeldSecret;
}

/** A vault with a key file and a recovery key. */
async function createWorld(): Promise<World> {
  const store = createMemoryStore();
  const host = createKeyFileSecret(random).secret;
  const recovery = createRecoveryKey(random).secret;
  await createVaultFiles(store, { secrets: [host, recovery], random, withRecoveryKey: false });
  return { store, host, recovery };
}

const deps = (store: ObjectStore): { store: ObjectStore; random: typeof random } => ({
  store,
  random,
});
const epochsOf = ({ keys }: OpenedVault): number[] => keys.epochs.map(({ epoch }) => epoch);
const code =
  (expected: string, reason = /./) =>
  (error: unknown): boolean =>
    isKluisError(error) && error.code === expected && reason.test(error.message);

async function slotNames(store: ObjectStore): Promise<string[]> {
  const { listing } = await listVaultKeys(store);
  return listing.slots.map(({ name }) => name);
}

/** The slot that a secret opens. */
async function slotOf(store: ObjectStore, secret: KeySecret): Promise<string> {
  return (await openVaultFiles(store, secret)).opened.slot.name;
}

test("key changes: rotation gives every key the new epoch, with one secret at hand", async () => {
  const { store, host, recovery } = await createWorld();
  for (let round = 2; round <= 5; round++) {
    const changed = await rotateVaultKeys(deps(store), await openVaultFiles(store, host), dataKey);
    assert.deepEqual([changed.epoch, changed.record], [round, round]);
  }
  const [one, other] = [await openVaultFiles(store, host), await openVaultFiles(store, recovery)];
  assert.deepEqual(epochsOf(one), [1, 2, 3, 4, 5]);
  assert.deepEqual(one.keys, other.keys);
});

test("key changes: a removed key opens no more, nor a copy of its slot what comes later", async () => {
  const { store, host, recovery } = await createWorld();
  const added = createKeyFileSecret(random).secret;
  const { name } = await addVaultKey(deps(store), await openVaultFiles(store, host), added);
  const before = await openVaultFiles(store, added);
  const slot = await store.get(name);
  const changed = await removeVaultKeys(
    deps(store),
    await openVaultFiles(store, recovery),
    [name],
    { newEpoch: true },
  );
  assert.equal(changed.epoch, 2);
  await assert.rejects(openVaultFiles(store, added), code("KeyWrong"));
  assert.ok(!(await slotNames(store)).includes(name));

  await store.put(name, [slot]);
  await assert.rejects(openVaultFiles(store, added), code("KeyWrong", /was removed/));
  await assert.rejects(
    rotateVaultKeys(deps(store), before, dataKey),
    code("KeyWrong", /has just removed the key/),
  );
  assert.deepEqual(epochsOf(await openVaultFiles(store, host)), [1, 2]);

  // The next change of keys sweeps what no record lists.
  await rotateVaultKeys(deps(store), await openVaultFiles(store, host), dataKey);
  assert.equal(await store.stat(name), undefined);
  const again = await openVaultFiles(store, host);
  await removeVaultKeys(deps(store), again, [name], { newEpoch: false });
});

test("key changes: a vault is not left with nothing but its host's keys", async () => {
  const { store, host, recovery } = await createWorld();
  const vault = await openVaultFiles(store, host);
  const name = await slotOf(store, recovery);
  const keepEpoch = { newEpoch: false };
  await assert.rejects(removeVaultKeys(deps(store), vault, [name], keepEpoch), code("KeyLast"));
  assert.deepEqual(epochsOf(await openVaultFiles(store, recovery)), [1]);
  const spare = createRecoveryKey(random).secret;
  await addVaultKey(deps(store), vault, spare);
  await removeVaultKeys(deps(store), vault, [name], keepEpoch);
  await removeVaultKeys(deps(store), vault, [await slotOf(store, host)], keepEpoch);
  assert.deepEqual(await slotNames(store), [await slotOf(store, spare)]);
});

test("key changes: hosts that change keys at once lose none of the changes", async () => {
  const { store, host, recovery } = await createWorld();
  const vault = await openVaultFiles(store, host);
  const secrets = Array.from({ length: 5 }, () => createKeyFileSecret(random).secret);
  const gone = createKeyFileSecret(random).secret;
  const { name } = await addVaultKey(deps(store), vault, gone);
  const results = await Promise.all([
    ...secrets.map((secret) => addVaultKey(deps(store), vault, secret)),
    rotateVaultKeys(deps(store), vault, dataKey),
    removeVaultKeys(deps(store), vault, [name], { newEpoch: true }),
  ]);
  const numbers = results.map(({ record }) => record).sort((a, b) => a - b);
  assert.deepEqual(numbers, [3, 4, 5, 6, 7, 8, 9]);
  for (const secret of [...secrets, host, recovery]) {
    assert.deepEqual(epochsOf(await openVaultFiles(store, secret)), [1, 2, 3]);
  }
  await assert.rejects(openVaultFiles(store, gone), code("KeyWrong"));
});

test("key changes: the number of slots is bounded", async () => {
  const { store, host } = await createWorld();
  const vault = await openVaultFiles(store, host);
  for (let count = 2; count < 32; count++) {
    await addVaultKey(deps(store), vault, createKeyFileSecret(random).secret);
  }
  const one = createKeyFileSecret(random).secret;
  await assert.rejects(
    addVaultKey(deps(store), vault, one),
    code("ArgumentInvalid", /33 key slots/),
  );
});

test("key changes: one damaged record is read from its copy; both damaged still restore, and change nothing", async () => {
  const { store, host, recovery } = await createWorld();
  await rotateVaultKeys(deps(store), await openVaultFiles(store, host), dataKey);
  const newest: string[] = [];
  for await (const { name } of store.list("ring/")) {
    const parsed = parseStoreName(name);
    if (parsed?.kind === "key-record" && parsed.number === 2) newest.push(name);
  }
  const [record = "", copy = ""] = newest.sort();
  for (const name of [record, copy]) {
    await flipObjectBit(store, name, 999);
    assert.deepEqual(epochsOf(await openVaultFiles(store, recovery)), [1, 2]);
    assert.deepEqual((await listVaultKeys(store)).records.damaged, [name]);
    await flipObjectBit(store, name, 999);
  }
  await store.remove(record);
  assert.deepEqual(epochsOf(await openVaultFiles(store, host)), [1, 2]);
  await flipObjectBit(store, copy, 5000);
  const fallen = await openVaultFiles(store, host);
  assert.deepEqual(epochsOf(fallen), [1]);
  await assert.rejects(
    rotateVaultKeys(deps(store), fallen, dataKey),
    code("ObjectCorrupt", /-copy/),
  );
});

test("key changes: a record or slot made without the ring does not count", async () => {
  const { store, host } = await createWorld();
  const vault = await openVaultFiles(store, host);
  // Somebody who has another ring of the same vault id, and may write to the store.
  const foreign = createMemoryStore();
  const evil = createRecoveryKey(random).secret;
  const { vaultId } = vault.header;
  await createVaultFiles(foreign, {
    secrets: [host, evil],
    random,
    withRecoveryKey: false,
    vaultId,
  });
  await rotateVaultKeys(deps(foreign), await openVaultFiles(foreign, host), dataKey);
  const copied: string[] = [];
  for await (const { name } of foreign.list("ring/")) {
    if ((await store.put(name, [await foreign.get(name)])) === "created") copied.push(name);
  }
  assert.equal(copied.length, 2);
  await assert.rejects(openVaultFiles(store, host), code("KeyWrong"));
  for (const name of copied) await store.remove(name);
  // His slot is not granted anything, and is swept.
  const evilSlot = await slotOf(foreign, evil);
  await store.put(evilSlot, [await foreign.get(evilSlot)]);
  await assert.rejects(openVaultFiles(store, evil), code("KeyWrong", /was removed/));
  await rotateVaultKeys(deps(store), await openVaultFiles(store, host), dataKey);
  assert.equal(await store.stat(evilSlot), undefined);
});

test("key changes: a slot is found by the start of its name", async () => {
  const { store } = await createWorld();
  const all = await slotNames(store);
  const [name = "", other = ""] = all;
  assert.equal(findSlotName(all, name), name);
  assert.equal(findSlotName(all, present(name.split("/")[1], "a hash").slice(0, 8)), name);
  const doubled = [name, `${other.slice(0, -1)}0`, `${other.slice(0, -1)}1`];
  for (const typed of ["", "keys/", name.slice(5, 12), "zz", "0".repeat(64), other.slice(5, 20)]) {
    assert.throws(() => findSlotName(doubled, typed), code("ArgumentInvalid"), typed);
  }
});
