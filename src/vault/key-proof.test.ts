// Goal: the proof of a key fails for what is damaged alone, not for the mark of a backup that was given up.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { pointName } from "#formats/store-names.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { backUp, pointIdOf } from "#testing/vault-points.ts";
import { runSteps } from "#vault/gc/run-steps.ts";
import { put } from "#vault/gc/steps.ts";
import { proveVaultKey } from "./key-proof.ts";
import { createKeyFileSecret } from "./key-secret.ts";
import { createVaultFiles, openVaultFiles } from "./vault-files.ts";

const random = createSeededRandom("key proof");

test("key proof: the tombstone of a backup that was given up is no damaged point", async () => {
  const store = createMemoryStore();
  const { secret } = createKeyFileSecret(random);
  await createVaultFiles(store, { secrets: [secret], random });
  const opened = await openVaultFiles(store, secret);
  const { keys } = opened;
  await using vault = await openTestVault({ store, keys });
  await backUp(vault, { itemId: "vm", number: 1, disks: [new MemoryDisk(4096)] });
  const [point] = await vault.listPoints();
  assert.ok(point);
  const later = pointName(point.item, pointIdOf(2));
  const deps = { store, keys, random, clock: systemClock };
  await runSteps(put("fence", later, { kind: "tombstone" }), deps);
  const proof = await proveVaultKey(store, opened);
  assert.deepEqual(proof.failed, []);
  const name = pointName(point.item, point.pointId);
  assert.deepEqual(proof.epochs, [{ epoch: 1, object: name }]);
  await flipObjectBit(store, name, 8 * 100);
  assert.deepEqual((await proveVaultKey(store, opened)).failed, [name]);
});
