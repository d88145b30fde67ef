// Goal: whatever is done to the objects of a store is found, and the objects it was done to are named,
// all of them and no other, without a key wherever the design says so.
// Method: a vault of less than 64 KiB; change every byte of every object, cut every object at every
// length, lengthen it, put others in its place, remove it, and bring parts of older states back.
// A slice of the bytes and lengths unless KLUIS_LONG=1.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { pointName, vaultHeaderName } from "#formats/store-names.ts";
import { rememberedPartsMax } from "#formats/vault-memory.ts";
import { parseVaultHeader } from "#formats/vault-header.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";
import { type VerifiedPoint, verifyVault, type VerifyReport } from "#vault/verify.ts";
import { verifyStore } from "#vault/verify-store.ts";
import { type LedgerPlace } from "#vault/inventory/ledger.ts";
import { lookBack } from "#vault/look-back.ts";
import { createSmallVault, type Objects } from "./small-vault.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const random = createSeededRandom("tamper");
const small = await createSmallVault(random);
const { objects, keys } = small;
const sizeBytes = [...objects.values()].reduce((sum, bytes) => sum + bytes.byteLength, 0);
/** Of so many bytes and lengths one is tried in a slice. */
const step = isLong ? 1 : 20;

/** What was done, to which objects. */
interface Tampering {
  readonly what: string;
  readonly changed: Objects;
  readonly bad: readonly string[];
}

function withObject(name: string, bytes: Uint8Array): Objects {
  return new Map(objects).set(name, bytes);
}

/** The objects that are wrong, as somebody without a key can tell. */
async function findBad(changed: Objects): Promise<readonly string[]> {
  const store = createMemoryStore(changed);
  const { vaultId } = keys;
  const report = await verifyStore({ store, vaultId, depth: "objects", clock: systemClock });
  const bad = report.badObjects.map(({ name }) => name);
  try {
    parseVaultHeader(changed.get(vaultHeaderName) ?? new Uint8Array(0));
  } catch (error) {
    assert.ok(isKluisError(error), String(error));
    bad.push(vaultHeaderName);
  }
  return bad.toSorted();
}

/** The manifests among `names` that cannot be read with the key. */
async function findBadManifests(changed: Objects, names: readonly string[]): Promise<string[]> {
  await using vault = await openTestVault({ store: createMemoryStore(changed), keys });
  const bad: string[] = [];
  for (const name of await vault.listPoints()) {
    const object = pointName(name.item, name.pointId);
    if (!names.includes(object)) continue;
    await vault.readPoint(name).catch((error: unknown) => {
      assert.ok(isKluisError(error) && error.code !== "Internal", String(error));
      bad.push(object);
    });
  }
  return bad;
}

/** Asserts that exactly the objects that were tampered with are named; returns how many cases there were. */
async function assertNamed(cases: Iterable<Tampering>): Promise<string> {
  let count = 0;
  let withKey = 0;
  for (const { what, changed, bad } of cases) {
    count++;
    const found = await findBad(changed);
    const rest = bad.filter((name) => !found.includes(name));
    assert.deepEqual(found, bad.filter((name) => !rest.includes(name)).toSorted(), what);
    if (rest.length === 0) continue;
    // Where the part that knows a manifest's hash is bad as well, the manifest needs the key.
    assert.ok(bad.some(isPart), what);
    assert.deepEqual(await findBadManifests(changed, rest), rest, what);
    withKey++;
  }
  return `${count} of ${count} found and named, ${count - withKey} without a key`;
}

function* flips(): Generator<Tampering> {
  for (const [name, bytes] of objects) {
    for (let at = random.integer(0, step - 1); at < bytes.byteLength; at += step) {
      const changed = bytes.slice();
      changed[at] = (changed[at] ?? 0) ^ random.integer(1, 255);
      yield { what: `byte ${at} of ${name}`, changed: withObject(name, changed), bad: [name] };
    }
  }
}

function* cuts(): Generator<Tampering> {
  for (const [name, bytes] of objects) {
    for (let length = random.integer(0, step - 1); length < bytes.byteLength; length += step) {
      const what = `${name} cut to ${length} bytes`;
      yield { what, changed: withObject(name, bytes.slice(0, length)), bad: [name] };
    }
  }
}

function* additions(): Generator<Tampering> {
  for (const [name, bytes] of objects) {
    for (let more = 1; more <= 64; more += isLong ? 1 : 9) {
      const tails = [new Uint8Array(more), random.bytes(more), bytes.slice(0, more)];
      for (const tail of tails) {
        const what = `${name} with ${more} bytes more`;
        yield { what, changed: withObject(name, concatBytes([bytes, tail])), bad: [name] };
      }
    }
    const again = concatBytes([bytes, bytes]);
    yield { what: `${name} twice`, changed: withObject(name, again), bad: [name] };
  }
}

function* swaps(): Generator<Tampering> {
  for (const [name, bytes] of objects) {
    for (const [other, text] of objects) {
      // A key record and its copy hold the same.
      if (other === name || bytesEqual(text, bytes)) continue;
      const copied = withObject(name, text);
      yield { what: `${other} in the place of ${name}`, changed: copied, bad: [name] };
      if (other < name) continue;
      const swapped = new Map(copied).set(other, bytes);
      const bad = [...objects.keys()].filter((one) => one === name || one === other);
      yield { what: `${name} and ${other} swapped`, changed: swapped, bad };
    }
  }
}

test("vault tamper: every changed byte of every object is found and named", async () => {
  console.log(`flips: ${await assertNamed(flips())}, of ${sizeBytes} bytes`);
});

test("vault tamper: an object that was cut at any length is found and named", async () => {
  console.log(`cuts: ${await assertNamed(cuts())}`);
});

test("vault tamper: an object that was lengthened is found and named", async () => {
  console.log(`additions: ${await assertNamed(additions())}`);
});

test("vault tamper: objects in the place of others are found and named", async () => {
  console.log(`swaps: ${await assertNamed(swaps())}`);
});

/** Whether a point reads back as it was. Fails where it reads as anything else. */
async function readsBack(vault: Vault, point: VerifiedPoint): Promise<boolean> {
  const kept = small.points.find(({ manifest }) => manifest.pointId === point.name.pointId);
  assert.ok(kept);
  try {
    const manifest = await vault.readPoint(point.name);
    assert.deepEqual(manifest, kept.manifest);
    await assertPointReads(vault, kept);
    return true;
  } catch (error) {
    assert.ok(isKluisError(error) && error.code !== "Internal", String(error));
    return false;
  }
}

/** Verifies with the keys; asserts that the verdict on each point is what reading it says. */
async function assertJudged(changed: Objects, what: string): Promise<VerifyReport> {
  const store = createMemoryStore(changed);
  await using vault = await openTestVault({ store, keys });
  await using _ = vault.openDisk({ root: undefined, sizeBytes: 0 });
  const report = await verifyVault({ store, keys, vault, clock: systemClock, workers: 1 });
  for (const point of report.points) {
    const isSound = point.verdict === "sound";
    assert.equal(await readsBack(vault, point), isSound, `${what}: ${point.name.pointId}`);
  }
  return report;
}

/** Whether the name of an object is among those that are wrong; a missing part is known by its hash. */
function isNamed(name: string, bad: readonly string[]): boolean {
  const sha256 = name.slice(-64);
  return bad.includes(name) || bad.includes(`inventory/*-${sha256}`);
}

/** The object whose absence only a host's memory tells: nothing in the store comes after it. */
function isUnseen(name: string): boolean {
  return name === [...objects.keys()].filter(isPart).toSorted().at(-1);
}

/** What a host remembers that saw the vault last. */
const { memory, setBack } = await lookBack(placeOf(objects), []);

function placeOf(changed: Objects): LedgerPlace {
  return { store: createMemoryStore(changed), vaultId: keys.vaultId, keys };
}

/** Objects that are gone, as a host can tell that has seen the vault. */
async function findSetBack(changed: Objects): Promise<readonly string[]> {
  const found = await lookBack(placeOf(changed), [memory]);
  return found.setBack.map(({ name }) => name);
}

function isPart(name: string): boolean {
  return name.startsWith("inventory/");
}

test("vault tamper: an object that is gone is named without a key, and each point judged as it reads", async () => {
  let named = 0;
  const names = [...objects.keys()].filter((name) => name !== vaultHeaderName);
  for (const name of names) {
    const left = new Map(objects);
    left.delete(name);
    assert.equal(isNamed(name, await findBad(left)), !isUnseen(name), name);
    if (isUnseen(name)) assert.deepEqual(await findSetBack(left), [name]);
    else named++;
    const report = await assertJudged(left, `without ${name}`);
    assert.equal(report.verdict !== "sound", !isUnseen(name), name);
  }
  const ofAll = `of ${names.length} found and named without a key, the last by a host's memory`;
  console.log(`removals: ${named} ${ofAll}`);
});

/** The objects of some folders as they were once, all others as they are now. */
function mixStates(old: Objects, folders: ReadonlySet<string>): Objects {
  const isOld = (name: string): boolean => folders.has(name.split("/")[0] ?? "");
  const kept = [...objects].filter(([name]) => !isOld(name));
  return new Map([...kept, ...[...old].filter(([name]) => isOld(name))]);
}

function isSame(a: Objects, b: Objects): boolean {
  return a.size === b.size && [...a].every(([name]) => b.has(name));
}

test("vault tamper: parts of an older state are named without a key or by a host's memory, and each point judged as it reads", async () => {
  const folders = [...new Set([...objects.keys()].map((name) => name.split("/")[0] ?? ""))];
  let replays = 0;
  let named = 0;
  let remembered = 0;
  let unchanged = 0;
  for (const [at, old] of small.states.slice(0, -1).entries()) {
    for (let bits = 1; bits < 2 ** folders.length; bits++) {
      const chosen = new Set(folders.filter((_, index) => (bits >> index) & 1));
      const what = `${[...chosen].join()} of state ${at}`;
      const changed = mixStates(old, chosen);
      if (isSame(changed, objects)) {
        unchanged++;
        continue;
      }
      replays++;
      // The inventory as it was once was true: only who has seen a later one can tell.
      if (!chosen.has("inventory")) {
        const gone = [...objects.keys()].filter((name) => !changed.has(name) && !isUnseen(name));
        assert.deepEqual(await findBad(changed), gone.toSorted(), what);
        if (gone.length > 0) named++;
        else assert.deepEqual(await findSetBack(changed), [], what);
      } else {
        const parts = [...objects.keys()].filter((name) => isPart(name) && !changed.has(name));
        const newest = parts.toSorted().slice(-rememberedPartsMax);
        assert.deepEqual((await findSetBack(changed)).toSorted(), newest, what);
        remembered++;
      }
      if (isLong || random.chance(0.04)) await assertJudged(changed, what);
    }
  }
  const kinds = `${named} by the store itself without a key, ${remembered} by a host's memory`;
  console.log(`replays: ${named + remembered} of ${replays} found and named: ${kinds}`);
  assert.equal(named + remembered, replays);
  assert.deepEqual(setBack, []);
  assert.ok(unchanged > 0);
});
