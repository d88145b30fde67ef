// Goal: whatever moment a change of keys is cut off at, every key that was acknowledged opens the vault,
// every removed one does not, all of them open the same ring, every committed point restores with it, and
// the next change and the next backup succeed.
// Method: record a sequence of backups and changes of keys; rebuild the store for a crash before each event
// of the log, with every subset of the puts and removes that were under way. And: fail each call of the
// store in turn during each change, with and without its work done.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { openLocalKeys } from "#drivers/key-local/local-key-provider.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { FaultyStore, injectedError } from "#testing/faulty-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { type RecordedChange, RecordingStore } from "#testing/recording-store.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { isInSlice } from "#testing/slice.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import { addVaultKey, removeVaultKeys, rotateVaultKeys } from "#vault/key-changes.ts";
import {
  createKeyFileSecret,
  createRecoveryKey,
  type HeldSecret,
  type KeySecret,
} from "#vault/key-secret.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { createVaultFiles, openVaultFiles } from "#vault/vault-files.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const random = createSeededRandom("key cuts");
const dataKey = { dataKey: true, wrapping: [] };

/** A key, and between which events of the log it was added and removed; infinity: not at all. */
interface TrackedKey {
  readonly name: string;
  readonly secret: KeySecret;
  addedAt: number;
  removalBeganAt: number;
  removedAt: number;
  /** The slot as it was, for whoever kept a copy. */
  slot?: { readonly name: string; readonly bytes: Uint8Array };
}

/** Everything that a sequence left. */
interface Recorded {
  readonly store: RecordingStore;
  readonly keys: readonly TrackedKey[];
  readonly points: readonly KeptPoint[];
  /** Events after which `vault.json` is there for certain. */
  readonly createdAt: number;
}

function track(name: string, secret: KeySecret): TrackedKey {
  const never = Number.POSITIVE_INFINITY;
  return { name, secret, addedAt: never, removalBeganAt: never, removedAt: never };
}

async function recordSequence(provided: KeySecret & { readonly key: string }): Promise<Recorded> {
  const store = await RecordingStore.open();
  const deps = { store, random };
  const host = track("host", createKeyFileSecret(random).secret);
  const recovery = track("recovery", createRecoveryKey(random).secret);
  const customer = track("customer", provided);
  const lost = track("lost", createKeyFileSecret(random).secret);
  const late = track("late", createKeyFileSecret(random).secret);
  const now = (): number => store.events.length;
  const open = (): ReturnType<typeof openVaultFiles> => openVaultFiles(store, host.secret);
  const secrets = [host, recovery, customer].map(({ secret }) => secret);
  await createVaultFiles(store, { secrets, random, withRecoveryKey: false });
  const createdAt = now();
  for (const key of [host, recovery, customer]) key.addedAt = createdAt;

  const disk = new MemoryDisk(1024 * 1024);
  disk.write(0, random.bytes(300_000));
  const points: KeptPoint[] = [];
  async function commit(): Promise<void> {
    const { keys } = await open();
    await using vault = await openTestVault({ store, keys });
    const base = points.at(-1);
    const number = points.length + 1;
    points.push(
      await backUp(vault, { itemId: "vm", number, disks: [disk], ...(base && { base }) }),
    );
    disk.write(random.integer(0, 200) * 4096, random.bytes(5000));
  }
  async function add(key: TrackedKey): Promise<void> {
    const { name } = await addVaultKey(deps, await open(), key.secret);
    key.addedAt = now();
    key.slot = { name, bytes: await store.get(name) };
  }
  await commit();
  await add(lost);
  await rotateVaultKeys(deps, await open(), dataKey);
  await commit();
  await add(late);
  lost.removalBeganAt = now();
  await removeVaultKeys(deps, await open(), [lost.slot?.name ?? ""], { newEpoch: true });
  lost.removedAt = now();
  await commit();
  const rewrapped = await rotateVaultKeys(deps, await open(), {
    dataKey: true,
    wrapping: [provided],
  });
  assert.equal(rewrapped.rewrapped.length, 1);
  await commit();
  return { store, keys: [host, recovery, customer, lost, late], points, createdAt };
}

async function opens(store: ObjectStore, secret: KeySecret): Promise<VaultKeys | undefined> {
  try {
    return (await openVaultFiles(store, secret)).keys;
  } catch (error) {
    assert.ok(isKluisError(error, "KeyWrong"), String(error));
    return undefined;
  }
}

/** Asserts what each key must do at a cut; returns the ring that all of them open. */
async function assertKeys(left: ObjectStore, cut: number, recorded: Recorded): Promise<VaultKeys> {
  let ring: VaultKeys | undefined;
  for (const key of recorded.keys) {
    // Argon2id takes its time: the recovery key stands at every fourth cut for itself.
    if (key.name === "recovery" && cut % 4 !== 0 && !isLong) continue;
    const opened = await opens(left, key.secret);
    const mustOpen = key.addedAt <= cut && key.removalBeganAt >= cut;
    const mustNot = key.removedAt <= cut || cut < recorded.createdAt - 1;
    if (mustOpen) assert.ok(opened, `the ${key.name} key opens at cut ${cut}`);
    if (mustNot) assert.equal(opened, undefined, `the ${key.name} key does not open at cut ${cut}`);
    if (opened === undefined) continue;
    ring ??= opened;
    assert.deepEqual(opened, ring, "all keys open the same ring");
  }
  assert.ok(ring);
  return ring;
}

/** Asserts that a copy of a removed slot opens nothing either. */
async function assertCopyIsUseless(left: ObjectStore, cut: number, keys: readonly TrackedKey[]) {
  for (const { removedAt, slot, secret } of keys) {
    if (slot === undefined || removedAt > cut) continue;
    await left.put(slot.name, [slot.bytes]);
    assert.equal(await opens(left, secret), undefined, "a slot that was put back opens nothing");
  }
}

async function assertUsable(left: ObjectStore, cut: number, recorded: Recorded): Promise<number> {
  const keys = await assertKeys(left, cut, recorded);
  await assertCopyIsUseless(left, cut, recorded.keys);
  const [host] = recorded.keys;
  assert.ok(host);
  const restored = await assertAllRead(left, keys, recorded.points);
  if (!isLong && (cut % 4 !== 0 || !isInSlice(2))) return restored;
  // The next change and the next backup succeed, and the new key reads all of it.
  const deps = { store: left, random };
  await rotateVaultKeys(deps, await openVaultFiles(left, host.secret), dataKey);
  const { secret } = createKeyFileSecret(random);
  await addVaultKey(deps, await openVaultFiles(left, host.secret), secret);
  const next = await openVaultFiles(left, secret);
  assert.ok(next.keys.epochs.length > keys.epochs.length);
  await using vault = await openTestVault({ store: left, keys: next.keys });
  const disk = new MemoryDisk(100 * 4096);
  disk.write(0, random.bytes(70_000));
  await assertPointReads(vault, await backUp(vault, { itemId: "next", number: 99, disks: [disk] }));
  return restored;
}

async function assertAllRead(
  store: ObjectStore,
  keys: VaultKeys,
  points: readonly KeptPoint[],
): Promise<number> {
  await using vault = await openTestVault({ store, keys });
  let restored = 0;
  for (const { pointId } of await vault.listPoints("vm")) {
    const kept = points.find(({ manifest }) => manifest.pointId === pointId);
    assert.ok(kept);
    await assertPointReads(vault, kept);
    restored++;
  }
  return restored;
}

function subsetsOf(changes: readonly RecordedChange[]): readonly ReadonlySet<RecordedChange>[] {
  assert.ok(changes.length <= 8, "few calls are under way at once");
  return Array.from({ length: 2 ** changes.length }, (_, bits) => {
    return new Set(changes.filter((_change, at) => (bits >> at) & 1));
  });
}

test("key cuts: a crash at any call of the store leaves every key and point as it was promised", async () => {
  await using folder = await createTempFolder();
  const provider = openLocalKeys(folder.path, { scheme: "local:", random: systemRandom });
  await provider.create("local:kek", "AES");
  const old = await provider.newestVersion("local:kek");
  const secret = { type: "customer-key", key: "local:kek", provider } as const;
  const rotating = {
    ...provider,
    keyOf: (key: string) => provider.keyOf(key),
    wrap: provider.wrap.bind(provider),
    unwrap: provider.unwrap.bind(provider),
    // The key gets its new version at the first time that a rotation asks.
    newestVersion: async (key: string) => {
      if ((await provider.newestVersion(key)) === old) await provider.addVersion(key);
      return await provider.newestVersion(key);
    },
  };
  const recorded = await recordSequence({ ...secret, provider: rotating });
  const { store } = recorded;
  const seen = new Set<string>();
  let cuts = 0;
  let restored = 0;
  for (let cut = recorded.createdAt; cut <= store.events.length; cut++) {
    const underWay = new Set<RecordedChange>();
    for (const { moment, change } of store.events.slice(0, cut)) {
      if (moment === "began") underWay.add(change);
      else underWay.delete(change);
    }
    for (const survivors of subsetsOf([...underWay])) {
      cuts++;
      const left = store.rebuild(cut, (change) => survivors.has(change));
      const names: string[] = [];
      for await (const { name } of left.list("")) names.push(name);
      // The same store may be left at two cuts that promise different things.
      const promises = recorded.keys.map((key) => [key.addedAt <= cut, key.removedAt <= cut]);
      const state = JSON.stringify([names.sort(), promises]);
      if (seen.has(state)) continue;
      seen.add(state);
      restored += await assertUsable(left, cut, recorded);
    }
  }
  console.log(`${cuts} cuts left ${seen.size} different stores, ${restored} points restored`);
  assert.ok(seen.size > 30 && restored > 60);
});

test("key cuts: each call of the store fails once during each change of keys", async () => {
  let cases = 0;
  for (const change of ["add", "remove", "rotate"] as const) {
    for (const kind of ["error", "lost-answer"] as const) {
      for (let call = 0; ; call++) {
        const isOver = await assertSurvivesFault(change, { kind, call });
        if (isOver) break;
        cases++;
      }
    }
  }
  console.log(`${cases} calls failed`);
  assert.ok(cases > 40);
});

/** The slots of one vault that the faults below start from. */
const host = createKeyFileSecret(random).secret;
const gone = createKeyFileSecret(random).secret;
const spare = createKeyFileSecret(random).secret;
const start = await createStart();

async function createStart(): Promise<{ objects: Map<string, Uint8Array>; goneSlot: string }> {
  const store = createMemoryStore();
  const recovery = createRecoveryKey(random).secret;
  await createVaultFiles(store, { secrets: [host, recovery], random, withRecoveryKey: false });
  const deps = { store, random };
  const { name } = await addVaultKey(deps, await openVaultFiles(store, host), gone);
  const objects = new Map<string, Uint8Array>();
  for await (const object of store.list("")) objects.set(object.name, await store.get(object.name));
  return { objects, goneSlot: name };
}

/** Whether the change made fewer calls than the one that was to fail. */
async function assertSurvivesFault(
  change: "add" | "remove" | "rotate",
  fault: { readonly kind: "error" | "lost-answer"; readonly call: number },
): Promise<boolean> {
  const inner = createMemoryStore(start.objects);
  const store = new FaultyStore(inner);
  const vault = await openVaultFiles(store, host);
  const { kind, call } = fault;
  store.inject({ method: "any", fault: { kind, error: injectedError() }, after: call });
  const run = (added: HeldSecret): Promise<unknown> => {
    const deps = { store, random };
    if (change === "add") return addVaultKey(deps, vault, added);
    if (change === "rotate") return rotateVaultKeys(deps, vault, dataKey);
    return removeVaultKeys(deps, vault, [start.goneSlot], { newEpoch: true });
  };
  const error = await run(spare).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (store.injected === 0) return true;
  if (error !== undefined) assert.ok(isKluisError(error, "StoreUnavailable"));
  const keys = await opens(inner, host);
  assert.ok(keys, "the host's key opens whatever failed");
  // Whoever runs the command again gets what it says.
  const again = createKeyFileSecret(random).secret;
  await run(again);
  const after = await opens(inner, host);
  assert.ok(after);
  if (change === "add") assert.deepEqual(await opens(inner, again), after);
  if (change === "remove") assert.equal(await opens(inner, gone), undefined);
  else assert.deepEqual(await opens(inner, gone), after);
  if (change !== "add") assert.ok(after.epochs.length > 1);
  return false;
}
