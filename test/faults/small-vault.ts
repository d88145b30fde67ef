/** A vault of less than 64 KiB, at several moments of its life, whose objects a test may tamper with. */
import assert from "node:assert/strict";

import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import type { SeededRandom } from "#testing/seeded-random.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import { createKeyFileSecret, type KeySecret } from "#vault/key-secret.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { createVaultFiles } from "#vault/vault-files.ts";

/** Objects by their names. */
export type Objects = ReadonlyMap<string, Uint8Array>;

/** The vault, and how it was after each step: created, first point, second, and one of another item. */
export interface SmallVault {
  readonly secret: KeySecret;
  readonly keys: VaultKeys;
  readonly states: readonly Objects[];
  readonly objects: Objects;
  readonly points: readonly KeptPoint[];
}

const sizeBytesMax = 64 * 1024;

/** Everything in a store. */
export async function readObjects(store: ObjectStore): Promise<Objects> {
  const objects = new Map<string, Uint8Array>();
  for await (const { name } of store.list("")) objects.set(name, await store.get(name));
  return objects;
}

/** Makes the vault anew, with keys and content from `random`. */
export async function createSmallVault(random: SeededRandom): Promise<SmallVault> {
  const { secret } = createKeyFileSecret(random);
  const store = createMemoryStore();
  const { keys } = await createVaultFiles(store, {
    secrets: [secret],
    random,
    withRecoveryKey: false,
  });
  const states = [await readObjects(store)];
  await using vault = await openTestVault({ store, keys });
  const disks = [new MemoryDisk(600 * 1024), new MemoryDisk(20_480 + 512)];
  for (const disk of disks) disk.write(4096, random.bytes(3000));
  disks[0]?.write(500_000, random.bytes(2000));
  const full = await backUp(vault, { itemId: "vm", number: 1, disks });
  states.push(await readObjects(store));
  for (const disk of disks) disk.write(8192, random.bytes(1500));
  const next = await backUp(vault, { itemId: "vm", number: 2, disks, base: full });
  states.push(await readObjects(store));
  const other = new MemoryDisk(8192);
  other.write(0, random.bytes(700));
  const last = await backUp(vault, { itemId: "other", number: 3, disks: [other] });
  const objects = await readObjects(store);
  states.push(objects);
  const sizeBytes = [...objects.values()].reduce((sum, bytes) => sum + bytes.byteLength, 0);
  assert.ok(sizeBytes <= sizeBytesMax, `the small vault has ${sizeBytes} bytes`);
  return { secret, keys, states, objects, points: [full, next, last] };
}
