// Goal: a rotation of the vault's key while it is verified raises no false alarm, and what was written under the
// new epoch is verified as well. Method: another host rotates the key and backs up before the n-th call of the
// verification, for calls from the first to the last; without reading the keys again some of them fail.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { HookedStore } from "#testing/hooked-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import { rotateVaultKeys } from "#vault/key-changes.ts";
import { createKeyFileSecret, createRecoveryKey, type KeySecret } from "#vault/key-secret.ts";
import { createVaultFiles, openVaultFiles, rereadKeys } from "#vault/vault-files.ts";
import { type VerifyReport, verifyVault } from "#vault/verify.ts";
import { contentOf } from "./copy-world.ts";

const random = createSeededRandom("verify rotation");
const clock = systemClock;
const steps = process.env["KLUIS_LONG"] === "1" ? 200 : 16;

interface World {
  readonly content: ReadonlyMap<string, Uint8Array>;
  readonly host: KeySecret;
  readonly disk: MemoryDisk;
  readonly first: KeptPoint;
}

async function createWorld(): Promise<World> {
  const store = createMemoryStore();
  const host = createKeyFileSecret(random).secret;
  const secrets = [host, createRecoveryKey(random).secret];
  const { keys } = await createVaultFiles(store, { secrets, random, withRecoveryKey: false });
  const disk = new MemoryDisk(3 * 1024 * 1024);
  disk.write(0, random.bytes(1024 * 1024));
  await using vault = await openTestVault({ store, keys });
  const first = await backUp(vault, { itemId: "vm", number: 1, disks: [disk] });
  return { content: await contentOf(store), host, disk, first };
}

/** What the other host does: it rotates the data key, and its next backup seals under it. */
async function rotateAndBackUp(store: ObjectStore, { host, disk, first }: World): Promise<void> {
  const wish = { dataKey: true, wrapping: [] };
  await rotateVaultKeys({ store, random }, await openVaultFiles(store, host), wish);
  const { keys } = await openVaultFiles(store, host);
  await using vault = await openTestVault({ store, keys });
  const next = disk.snapshot();
  next.write(0, random.bytes(4096));
  await backUp(vault, { itemId: "vm", number: 2, disks: [next], base: first });
}

/** Verifies; the rotation comes before call `at`. Returns how many calls there were, too. */
async function verifyThrough(
  world: World,
  at: number,
  isRereading: boolean,
): Promise<{ readonly report: VerifyReport; readonly calls: number }> {
  const inner = createMemoryStore(world.content);
  let calls = 0;
  const store = new HookedStore(inner);
  const files = await openVaultFiles(store, world.host);
  const { keys } = files;
  await using vault = await openTestVault({ store, keys });
  store.hook = async () => {
    if (calls++ === at) await rotateAndBackUp(inner, world);
  };
  const again = isRereading ? { rereadKeys: () => rereadKeys(store, files) } : {};
  const report = await verifyVault({ store, keys, vault, clock, workers: 1, ...again });
  return { report, calls };
}

test("verify: a rotation at any moment raises no false alarm", async () => {
  const world = await createWorld();
  const { calls } = await verifyThrough(world, -1, true);
  let seen = 0;
  let misread = 0;
  for (let step = 0; step < steps; step++) {
    const at = Math.floor((step * calls) / steps);
    const { report } = await verifyThrough(world, at, true);
    assert.deepEqual([report.verdict, report.badObjects], ["sound", []], `before call ${at}`);
    if (report.points.length === 2) seen++;
    try {
      const { report: old } = await verifyThrough(world, at, false);
      if (old.verdict !== "sound") misread++;
    } catch (error) {
      if (!isKluisError(error, "KeyWrong")) throw error;
      misread++;
    }
  }
  assert.ok(seen > 0 && seen < steps, "the new point is seen where it came early enough");
  assert.ok(misread > 0, "without the new keys some verifications misjudge it");
});
