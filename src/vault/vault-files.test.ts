// Goal: a place becomes a vault in one step that a crash cannot halve, and nothing else is touched.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { vaultHeaderName } from "#formats/store-names.ts";
import type { ObjectStore, PutOutcome } from "#ports/object-store.ts";
import { flipObjectBit, replaceObject } from "#testing/damage.ts";
import { FaultyStore, injectedError } from "#testing/faulty-store.ts";
import { RecordingStore } from "#testing/recording-store.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { createKeyFileSecret, toPassphraseSecret, toRecoverySecret } from "./key-secret.ts";
import { addVaultKey } from "./key-changes.ts";
import { createVaultFiles, openVaultFiles, readVaultHeader } from "./vault-files.ts";

const random = createSeededRandom("vault files");
const { secret } = createKeyFileSecret(random);
const keyFileOnly = { secrets: [secret], random, withRecoveryKey: false };

const code =
  (expected: string) =>
  (error: unknown): boolean =>
    isKluisError(error) && error.code === expected;

async function names(store: ObjectStore): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of store.list("")) found.push(name);
  return found.sort();
}

/** Repeats a put that failed, as a store behind a network will. */
class RetryingStore extends FaultyStore {
  override async put(...args: Parameters<ObjectStore["put"]>): Promise<PutOutcome> {
    return super.put(...args).catch(() => super.put(...args));
  }
}

test("vault files: a new vault opens with every key, by default a recovery key too", async () => {
  const store = createMemoryStore();
  const passphrase = toPassphraseSecret("correct horse");
  const created = await createVaultFiles(store, { secrets: [passphrase, secret], random });
  assert.deepEqual(await readVaultHeader(store), created.header);
  const recovery = toRecoverySecret(created.recoveryKey ?? "");
  for (const key of [passphrase, secret, recovery]) {
    const opened = await openVaultFiles(store, key);
    assert.deepEqual(opened.keys, created.keys);
    assert.deepEqual(opened.header, created.header);
  }
  const added = createKeyFileSecret(random).secret;
  await addVaultKey({ store, random }, await openVaultFiles(store, recovery), added);
  assert.deepEqual((await openVaultFiles(store, added)).keys, created.keys);
});

test("vault files: a crash at any moment leaves no vault or a whole one", async () => {
  const store = await RecordingStore.open();
  await createVaultFiles(store, { secrets: [secret], random });
  let whole = 0;
  for (let cut = 0; cut <= store.events.length; cut++) {
    for (const survives of [true, false]) {
      const crashed = store.rebuild(cut, () => survives);
      if ((await names(crashed)).includes(vaultHeaderName)) {
        whole++;
        await openVaultFiles(crashed, secret);
      } else {
        await assert.rejects(readVaultHeader(crashed), code("StoreNotFound"));
        const again = await createVaultFiles(crashed, keyFileOnly);
        assert.deepEqual((await openVaultFiles(crashed, secret)).keys, again.keys);
      }
    }
  }
  assert.equal(whole, 3, "vault.json is there after its put returned, and perhaps before");
});

test("vault files: of racing creations one wins, and the vault is that one's", async () => {
  const store = createMemoryStore();
  const results = await Promise.allSettled(
    Array.from({ length: 8 }, () => createVaultFiles(store, keyFileOnly)),
  );
  const won = results.filter((result) => result.status === "fulfilled");
  const lost = results.filter((result) => result.status === "rejected");
  assert.equal(won.length, 1);
  for (const { reason } of lost) assert.ok(code("StoreNotEmpty")(reason));
  assert.deepEqual((await openVaultFiles(store, secret)).keys, won[0]?.value.keys);
});

test("vault files: a lost answer to the commit is not taken for another's vault", async () => {
  const faulty = new FaultyStore(createMemoryStore());
  faulty.inject({
    method: "put",
    name: /^vault\.json$/,
    fault: { kind: "lost-answer", error: injectedError() },
  });
  const created = await createVaultFiles(new RetryingStore(faulty), keyFileOnly);
  assert.equal(faulty.injected, 1);
  assert.deepEqual((await openVaultFiles(faulty, secret)).keys, created.keys);
});

test("vault files: a place that is not empty is refused and not touched", async () => {
  const one = new Uint8Array(1);
  const hash = "ab".repeat(32);
  const places: [string, string, string][] = [
    ["StoreForeign", "StoreForeign", "photos/cat.jpg"],
    ["StoreForeign", "StoreForeign", "keys/readme"],
    ["StoreNotEmpty", "ObjectNotFound", `packs/ab/${hash}`],
    ["StoreNotEmpty", "StoreForeign", vaultHeaderName],
  ];
  for (const [creating, reading, name] of places) {
    const store = createMemoryStore([[name, one]]);
    await assert.rejects(createVaultFiles(store, keyFileOnly), code(creating), name);
    await assert.rejects(readVaultHeader(store), code(reading), name);
    assert.deepEqual(await names(store), [name]);
  }
  const vault = createMemoryStore();
  await createVaultFiles(vault, keyFileOnly);
  const before = await names(vault);
  await assert.rejects(createVaultFiles(vault, keyFileOnly), code("StoreNotEmpty"));
  assert.deepEqual(await names(vault), before);
});

test("vault files: an empty place, a damaged header and a huge one have names", async () => {
  const store = createMemoryStore();
  await assert.rejects(readVaultHeader(store), code("StoreNotFound"));
  await createVaultFiles(store, keyFileOnly);
  await flipObjectBit(store, vaultHeaderName, 300);
  await assert.rejects(openVaultFiles(store, secret), code("ObjectCorrupt"));
  await replaceObject(store, vaultHeaderName, new Uint8Array(1 << 20));
  await assert.rejects(readVaultHeader(store), code("StoreForeign"));
});
