// Goal: the inventory is the union of what everybody said, whatever is put, removed and compacted at
// the same time and wherever a process stops; a part that is gone, forged or changed is told.
// Method: a plain model beside seeded steps of several parties on one store, with compactors that are
// cut off before any of their operations; then single cases.
import assert from "node:assert/strict";
import { test } from "node:test";

import { toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { ledgerPartBytesMax } from "#formats/ledger-part.ts";
import { ledgerName, packName } from "#formats/store-names.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { deriveVaultKeys } from "#vault/keys/vault-keys.ts";
import { putFindings, readFindings } from "./findings.ts";
import {
  compactInventory,
  putInventoryPart,
  readInventory,
  type StoredObject,
} from "./inventory.ts";
import { ledgerBytesMax, ledgerPartsMax, listLedger } from "./ledger.ts";

const { vaultId } = testKeys;

function place(store: ObjectStore): {
  store: ObjectStore;
  vaultId: Uint8Array;
  keys: typeof testKeys;
} {
  return { store, vaultId, keys: testKeys };
}

/** A store that fails from its `operations`-th put or removal on, as for a process that was killed. */
function cutStore(store: ObjectStore, operations: number): ObjectStore {
  let left = operations;
  const use = (): void => {
    if (left-- <= 0) throw new Error("cut");
  };
  return {
    location: store.location,
    get: (...given) => store.get(...given),
    stat: (...given) => store.stat(...given),
    list: (...given) => store.list(...given),
    probe: (...given) => store.probe(...given),
    put: async (...given) => {
      use();
      return await store.put(...given);
    },
    remove: async (...given) => {
      use();
      await store.remove(...given);
    },
  };
}

test("inventory: is the union of all parts, whatever is compacted and cut off", async () => {
  const random = createSeededRandom("inventory union");
  let compacted = 0;
  for (let round = 0; round < 40; round++) {
    const store = createMemoryStore();
    const expected = new Map<string, StoredObject>();
    const gone = new Set<string>();
    for (let step = 0; step < 30; step++) {
      const action = random.integer(0, 9);
      if (action < 6) {
        const added = Array.from({ length: random.integer(1, 3) }, () => ({
          name: packName(random.bytes(32)),
          sizeBytes: random.integer(1, 1000),
        }));
        const removed = [...expected.keys()].filter(() => random.chance(0.1));
        await putInventoryPart({ store, keys: testKeys }, { added, removed });
        for (const object of added) expected.set(object.name, object);
        for (const name of removed) {
          expected.delete(name);
          gone.add(name);
        }
      } else if (action < 8) {
        const cut = cutStore(store, random.integer(0, 6));
        try {
          compacted += await compactInventory({ store: cut, keys: testKeys }, { partsMin: 2 });
        } catch (error) {
          assert.equal((error as Error).message, "cut");
        }
      } else compacted += await compactInventory({ store, keys: testKeys }, { partsMin: 2 });
      const read = await readInventory(place(store));
      assert.deepEqual([...read.expected.keys()].sort(), [...expected.keys()].sort());
      for (const [name, { sizeBytes }] of read.expected) {
        assert.equal(sizeBytes, expected.get(name)?.sizeBytes);
      }
      for (const name of read.removed) assert.ok(gone.has(name));
      assert.deepEqual([read.content.bad, read.content.missing], [[], []]);
    }
  }
  assert.ok(compacted > 100, `${compacted} parts were replaced`);
});

test("inventory: stays small when it is compacted again and again", async () => {
  const store = createMemoryStore();
  const random = createSeededRandom("inventory size");
  for (let round = 0; round < 10; round++) {
    const names = Array.from({ length: 20 }, () => packName(random.bytes(32)));
    const added = names.map((name) => ({ name, sizeBytes: 1 }));
    await putInventoryPart({ store, keys: testKeys }, { added });
    await putInventoryPart({ store, keys: testKeys }, { removed: names });
    await compactInventory({ store, keys: testKeys }, { partsMin: 2 });
  }
  const parts = await listLedger({ store }, "inventory");
  assert.equal(parts.length, 1);
  const { expected, removed } = await readInventory(place(store));
  assert.equal(expected.size, 0);
  assert.ok(removed.size <= 4 * 20, `${removed.size} names of removed objects are kept`);
});

test("inventory: a removal holds whatever order parts are put in", async () => {
  const store = createMemoryStore();
  const name = packName(new Uint8Array(32));
  await putInventoryPart({ store, keys: testKeys }, { removed: [name] });
  await compactInventory({ store, keys: testKeys }, { partsMin: 1 });
  await putInventoryPart({ store, keys: testKeys }, { added: [{ name, sizeBytes: 5 }] });
  assert.equal((await readInventory(place(store))).expected.size, 0, "a stopped writer woke late");
});

test("inventory: tells parts that are missing, changed, forged or of another vault", async () => {
  const store = createMemoryStore();
  const object = { name: packName(new Uint8Array(32)), sizeBytes: 5 };
  for (let at = 0; at < 3; at++) {
    await putInventoryPart({ store, keys: testKeys }, { added: [object] });
  }
  const [first, second, third] = await listLedger({ store }, "inventory");
  assert.ok(first && second && third);
  await store.remove(second.name);
  const cut = await readInventory(place(store));
  assert.deepEqual(cut.content.missing, [toHex(second.sha256)]);
  await flipObjectBit(store, first.name, 800);
  const changed = await readInventory({ ...place(store), keys: undefined });
  assert.deepEqual(
    changed.content.bad.map(({ name, error }) => [name, error.code]),
    [[first.name, "ObjectCorrupt"]],
  );
  const strangers = [
    deriveVaultKeys(vaultId, [{ epoch: 1, masterKey: new Uint8Array(32).fill(1) }]),
    deriveVaultKeys(new Uint8Array(16), testKeys.epochs),
  ];
  for (const keys of strangers) {
    const other = createMemoryStore();
    await putInventoryPart({ store: other, keys }, { added: [object] });
    assert.equal((await readInventory(place(other))).content.bad.length, 1);
    assert.equal(
      (await readInventory(place(other))).expected.size,
      0,
      "a forged part counts for nothing",
    );
  }
});

test("findings: the newest verdict counts, damage among equals", async () => {
  const store = createMemoryStore();
  const deps = { store, keys: testKeys };
  const [a, b] = [packName(new Uint8Array(32)), packName(new Uint8Array(32).fill(1))];
  const range = { atMs: 5, upTo: 3, objects: 2, bytes: 10, from: a, to: b };
  const checked = (["objects", "full"] as const).map((depth) => ({ depth, ...range }));
  await putFindings(deps, { damaged: [a, b], checked });
  await putFindings(deps, { sound: [b] });
  const { damaged, checked: read, bad } = await readFindings(place(store));
  assert.deepEqual([[...damaged], read, bad], [[a], checked, []]);
  await putFindings(deps, { damaged: [b], sound: [b] });
  assert.deepEqual([...(await readFindings(place(store))).damaged].sort(), [a, b].sort());
});

/** A store that lists what nobody put. */
function lyingStore(list: () => Generator<{ name: string; sizeBytes: number }>): ObjectStore {
  const store = createMemoryStore();
  return {
    location: store.location,
    get: (...given) => store.get(...given),
    stat: (...given) => store.stat(...given),
    put: (...given) => store.put(...given),
    remove: (...given) => store.remove(...given),
    probe: (...given) => store.probe(...given),
    list: async function* () {
      yield* list();
    },
  };
}

test("inventory: a store that lists parts without end, or too much of them, is given up", async () => {
  const hash = (number: number): Uint8Array => {
    const sha256 = new Uint8Array(32);
    new DataView(sha256.buffer).setUint32(0, number);
    return sha256;
  };
  let listed = 0;
  const endless = lyingStore(function* () {
    for (;;) yield { name: ledgerName("inventory", 1, hash(listed++)), sizeBytes: 300 };
  });
  const isBound = (error: unknown): boolean =>
    isKluisError(error) && error.code === "ObjectCorrupt" && /more than/.test(error.message);
  await assert.rejects(readInventory(place(endless)), isBound);
  assert.equal(listed, ledgerPartsMax + 1);
  const large = lyingStore(function* () {
    const sizeBytes = ledgerPartBytesMax;
    const parts = ledgerBytesMax / sizeBytes + 1;
    for (let part = 0; part < parts; part++) {
      yield { name: ledgerName("findings", 1, hash(part)), sizeBytes };
    }
  });
  await assert.rejects(readFindings(place(large)), isBound);
});
