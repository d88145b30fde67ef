// Goal: damage in the locked place of a WORM vault is got over although nothing there can be removed: a
// repair succeeds and says what stays, nobody trusts or misses it, healing puts good bytes beside the bad
// ones, and a removed key opens nothing although its slot is there. What is locked goes when it may.
// Method: a lock service in memory whose versions are changed behind its back; months pass by a clock.
import assert from "node:assert/strict";
import { test } from "node:test";

import { present } from "#base/assert.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { createMemoryWormStore, type MemoryWormOptions } from "#drivers/store/memory-worm-store.ts";
import { windowBytes } from "#formats/geometry.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipBit } from "#testing/damage.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import { healVault } from "#vault/heal.ts";
import { addVaultKey, removeVaultKeys } from "#vault/key-changes.ts";
import { compactInventory } from "#vault/inventory/inventory.ts";
import { createKeyFileSecret, createRecoveryKey, type KeySecret } from "#vault/key-secret.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { type RepairReport, repairVault } from "#vault/repair.ts";
import { replicateVault } from "#vault/replicate.ts";
import { createVaultFiles, type OpenedVault, openVaultFiles } from "#vault/vault-files.ts";
import { type VerifyReport, verifyVault } from "#vault/verify.ts";

const dayMs = 24 * 3600 * 1000;
const mib = 1024 * 1024;
const policy = { periodMs: 30 * dayMs, generationMs: 10 * dayMs };
/** Longer than any lock that was given before it. */
const lockMsMax = policy.periodMs + 2 * policy.generationMs;
const random = createSeededRandom("worm damage");

class WormWorld {
  readonly clock = new ManualClock();
  readonly options: MemoryWormOptions = {
    policy,
    clock: this.clock,
    versions: new Map(),
    control: createMemoryStore(),
  };
  readonly host = createKeyFileSecret(random).secret;
  readonly disk = new MemoryDisk(4 * mib);
  readonly points: KeptPoint[] = [];
  #keys: VaultKeys | undefined;

  /** A vault of two points. */
  static async create(): Promise<WormWorld> {
    const world = new WormWorld();
    await world.clock.advance(20_000 * dayMs);
    const secrets = [world.host, createRecoveryKey(random).secret];
    const options = { secrets, random, withRecoveryKey: false };
    world.#keys = (await createVaultFiles(world.open(), options)).keys;
    world.disk.write(0, random.bytes(2 * mib));
    await world.backUp();
    world.disk.write(3 * mib, random.bytes(windowBytes));
    await world.backUp();
    return world;
  }

  get keys(): VaultKeys {
    return present(this.#keys, "the vault was created");
  }

  /** The store, as a process sees it that remembers nothing. */
  open(): ObjectStore {
    return createMemoryWormStore(this.options);
  }

  async backUp(): Promise<void> {
    await using vault = await openTestVault({ store: this.open(), keys: this.keys });
    const base = this.points.at(-1);
    const what = { itemId: "vm", number: this.points.length + 1, disks: [this.disk] };
    this.points.push(await backUp(vault, { ...what, ...(base && { base }) }));
  }

  async collect(): Promise<void> {
    await using vault = await openTestVault({ store: this.open(), keys: this.keys });
    await vault.collect({ allowMassDeletion: true });
  }

  async repair(): Promise<RepairReport> {
    const { clock } = this;
    const store = this.open();
    await using vault = await openTestVault({ store, keys: this.keys });
    return await repairVault({ store, keys: this.keys, vault, clock, random, workers: 1 });
  }

  async verify(): Promise<VerifyReport> {
    const { clock } = this;
    const store = this.open();
    await using vault = await openTestVault({ store, keys: this.keys });
    return await verifyVault({ store, keys: this.keys, vault, clock, workers: 1 });
  }

  async assertReads(): Promise<void> {
    await using vault = await openTestVault({ store: this.open(), keys: this.keys });
    for (const point of this.points) await assertPointReads(vault, point);
  }

  async names(prefix: string): Promise<readonly string[]> {
    const names: string[] = [];
    for await (const { name } of this.open().list(prefix)) names.push(name);
    return names.sort();
  }

  /** Turns over a bit of what the locked place holds under a name, as a disk that rots does. */
  rot(name: string): void {
    const { versions } = this.options;
    const all = present(versions.get(name), "it lies in the locked place");
    versions.set(
      name,
      all.map((one) => ({ ...one, content: one.content && flipBit(one.content, 8 * 90) })),
    );
  }
}

test("WORM damage: repair gets over a damaged index segment that is locked, and removes it when it may", async () => {
  const world = await WormWorld.create();
  const [segment = ""] = await world.names("index/");
  world.rot(segment);
  const first = await world.repair();
  assert.equal(first.segmentsDropped, 1);
  assert.deepEqual(first.lockedObjects, [segment]);
  assert.equal(first.verify.pointsVerdict, "sound");
  assert.ok((await world.names("index/")).includes(segment), "it is locked");
  await world.assertReads();
  const verified = await world.verify();
  assert.deepEqual([verified.verdict, verified.badObjects], ["sound", []], "nobody needs it");
  const parts = await world.names("inventory/");
  const again = await world.repair();
  assert.deepEqual([again.segmentsDropped, again.lockedObjects], [0, [segment]]);
  assert.deepEqual(await world.names("inventory/"), parts, "there was nothing more to say");
  // Nobody forgets that, however often the inventory is put together.
  for (let times = 0; times < 5; times++) {
    await compactInventory({ store: world.open(), keys: world.keys }, { partsMin: 1 });
  }
  world.disk.write(0, random.bytes(4096));
  await world.backUp();
  await world.collect();
  assert.equal((await world.verify()).verdict, "sound");
  await world.clock.advance(lockMsMax);
  await world.backUp();
  const last = await world.repair();
  assert.deepEqual([last.segmentsDropped, last.lockedObjects], [0, []]);
  assert.ok(!(await world.names("index/")).includes(segment), "its lock had ended");
  await world.collect();
  await world.assertReads();
});

test("WORM damage: a damaged pack that is locked is stored again by the next backup, and goes at last", async () => {
  const world = await WormWorld.create();
  const [pack = ""] = await world.names("packs/");
  world.rot(pack);
  const found = await world.repair();
  assert.equal(found.verify.pointsVerdict, "damaged");
  assert.deepEqual(found.lockedObjects, [pack]);
  await world.backUp();
  await world.assertReads();
  const healed = await world.repair();
  assert.equal(healed.verify.pointsVerdict, "sound");
  assert.deepEqual(healed.lockedObjects, [pack]);
  await world.collect();
  assert.ok((await world.names("packs/")).includes(pack), "it is locked");
  await world.clock.advance(lockMsMax);
  await world.backUp();
  await world.collect();
  assert.ok(!(await world.names("packs/")).includes(pack), "nobody refers to it");
  const last = await world.repair();
  assert.deepEqual([last.verify.verdict, last.lockedObjects], ["sound", []]);
  await world.assertReads();
});

test("WORM damage: healing puts good bytes beside what is locked, and they count", async () => {
  const world = await WormWorld.create();
  const copy = createMemoryStore();
  const { clock, keys } = world;
  await replicateVault({ primary: world.open(), secondary: copy, keys, clock, random });
  const names = [
    ...(await world.names("packs/")),
    ...(await world.names("maps/")),
    ...(await world.names("index/")),
    ...(await world.names("keys/")),
  ];
  for (const name of names) world.rot(name);
  const report = await healVault({ store: world.open(), copy, keys, clock, random });
  assert.deepEqual(report.unhealed, []);
  assert.deepEqual(report.healed.map(({ name }) => name).toSorted(), names.toSorted());
  await world.assertReads();
  await openVaultFiles(world.open(), world.host);
  assert.equal((await world.verify()).verdict, "sound");
  const again = await healVault({ store: world.open(), copy, keys, clock, random });
  assert.deepEqual([again.healed, again.unhealed], [[], []]);
  // Their locks hold as long as those of other objects, and the bad versions go with the name.
  await world.clock.advance(lockMsMax);
  await world.backUp();
  await world.collect();
  await world.assertReads();
  assert.equal((await world.verify()).verdict, "sound");
});

test("WORM damage: a key that is removed opens nothing although its slot is locked, which goes when it may", async () => {
  const world = await WormWorld.create();
  const opened = (secret: KeySecret): Promise<OpenedVault> => openVaultFiles(world.open(), secret);
  const deps = { store: world.open(), random };
  const lost = createKeyFileSecret(random).secret;
  const { name } = await addVaultKey(deps, await opened(world.host), lost);
  const changed = await removeVaultKeys(deps, await opened(world.host), [name], { newEpoch: true });
  assert.equal(changed.epoch, 2);
  await assert.rejects(opened(lost), (error) => {
    return isKluisError(error, "KeyWrong") && /was removed/.test(error.message);
  });
  assert.ok((await world.names("keys/")).includes(name), "it is locked");
  assert.equal((await world.verify()).verdict, "sound");
  // Nothing is due while it is locked: a timer uses up no record.
  const again = await removeVaultKeys(deps, await opened(world.host), [], { newEpoch: false });
  assert.equal(again.record, changed.record);
  await world.clock.advance(policy.periodMs - dayMs);
  await world.backUp();
  await world.clock.advance(lockMsMax - policy.periodMs);
  await removeVaultKeys(deps, await opened(world.host), [], { newEpoch: false });
  assert.ok(
    !(await world.names("keys/")).includes(name),
    "its lock had ended, and nobody made it longer",
  );
});
