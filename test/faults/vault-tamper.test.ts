// Goal: whatever is done to the objects of a store is found, and the objects it was done to are named,
// all of them and no other, without a key wherever the design says so.
// Method: a vault of less than 64 KiB; change every byte of every object, cut every object at every
// length, lengthen it, put others in its place, remove it, and bring parts of older states back.
// KLUIS_LONG=1 changes every byte in nine ways and brings every mix of states back.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { concatBytes, toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { parseStoreName, pointName, vaultHeaderName } from "#formats/store-names.ts";
import { parseVaultHeader } from "#formats/vault-header.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";
import { type VerifiedPoint, verifyVault, type VerifyReport } from "#vault/verify.ts";
import { createSmallVault, type Objects } from "./small-vault.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const random = createSeededRandom("tamper");
const small = await createSmallVault(random);
const { objects, keys } = small;
const sizeBytes = [...objects.values()].reduce((sum, bytes) => sum + bytes.byteLength, 0);
/** What was done, to which objects. */
interface Tampering {
  readonly what: string;
  readonly changed: Objects;
  readonly bad: readonly string[];
}

function withObject(name: string, bytes: Uint8Array): Objects {
  return new Map(objects).set(name, bytes);
}

/** Whether somebody without a key can tell that one object is not what was put there. */
function isBadWithoutKey(name: string, bytes: Uint8Array): boolean {
  const parsed = parseStoreName(name);
  if (parsed !== undefined && "sha256" in parsed) {
    return toHex(parsed.sha256) !== createHash("sha256").update(bytes).digest("hex");
  }
  if (name !== vaultHeaderName) return false;
  try {
    parseVaultHeader(bytes);
    return false;
  } catch (error) {
    assert.ok(isKluisError(error), String(error));
    return true;
  }
}

/** Manifests are named by their points: only the key tells what they hold. */
function needsKey(name: string): boolean {
  return name.startsWith("points/");
}

/** A store that shows what it is told to: to open a vault costs more than to read a manifest. */
let shown: Objects = objects;
const showing = new Proxy(createMemoryStore(objects), {
  get(_, property): unknown {
    const store = createMemoryStore(shown);
    const value: unknown = Reflect.get(store, property, store);
    return typeof value === "function" ? (value.bind(store) as unknown) : value;
  },
});
const reader = await openTestVault({ store: showing, keys });
after(() => reader[Symbol.asyncDispose]());

/** The manifests that the keys show to be bad, of those that are there. */
async function findBadManifests(changed: Objects): Promise<readonly string[]> {
  shown = changed;
  const bad: string[] = [];
  for (const name of await reader.listPoints()) {
    try {
      await reader.readPoint(name);
    } catch (error) {
      assert.ok(isKluisError(error) && error.code !== "Internal", String(error));
      bad.push(pointName(name.item, name.pointId));
    }
  }
  return bad;
}

/** Asserts that exactly the objects that were tampered with are named; counts them by who could tell. */
async function assertNamed(cases: Iterable<Tampering>): Promise<string> {
  let withoutKey = 0;
  let withKey = 0;
  for (const { what, changed, bad } of cases) {
    const found = [...changed].flatMap(([name, bytes]) =>
      bytes === objects.get(name) || !isBadWithoutKey(name, bytes) ? [] : [name],
    );
    assert.deepEqual(
      found,
      bad.filter((name) => !needsKey(name)),
      what,
    );
    const sealed = bad.filter((name) => needsKey(name));
    if (sealed.length > 0) {
      withKey++;
      assert.deepEqual((await findBadManifests(changed)).toSorted(), sealed.toSorted(), what);
    } else withoutKey++;
  }
  return `${withoutKey + withKey} found and named, ${withoutKey} of them without a key`;
}

function* flips(): Generator<Tampering> {
  const masks = isLong ? [1, 2, 4, 8, 16, 32, 64, 128, 255] : [0];
  for (const [name, bytes] of objects) {
    for (let at = 0; at < bytes.byteLength; at++) {
      for (const mask of masks) {
        const changed = bytes.slice();
        changed[at] = (changed[at] ?? 0) ^ (mask === 0 ? random.integer(1, 255) : mask);
        yield { what: `byte ${at} of ${name}`, changed: withObject(name, changed), bad: [name] };
      }
    }
  }
}

function* cuts(): Generator<Tampering> {
  for (const [name, bytes] of objects) {
    for (let length = 0; length < bytes.byteLength; length++) {
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
      if (other === name) continue;
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

test("vault tamper: of a store without one of its objects each point is judged as it reads", async () => {
  let damaged = 0;
  const names = [...objects.keys()].filter((name) => name !== vaultHeaderName);
  for (const name of names) {
    const left = new Map(objects);
    left.delete(name);
    const report = await assertJudged(left, `without ${name}`);
    const isSeen = report.verdict !== "sound";
    if (isSeen) damaged++;
    // A slot is one of several ways in; a manifest that is gone leaves nothing that would miss it.
    const isUnseen = needsKey(name) || name.startsWith("keys/");
    assert.equal(isSeen, !isUnseen, name);
  }
  console.log(`removals: ${names.length}, ${damaged} of them touch points, all as reading says`);
});

/** The objects of some folders as they were once, all others as they are now. */
function mixStates(old: Objects, folders: ReadonlySet<string>): Objects {
  const isOld = (name: string): boolean => folders.has(name.split("/")[0] ?? "");
  const kept = [...objects].filter(([name]) => !isOld(name));
  return new Map([...kept, ...[...old].filter(([name]) => isOld(name))]);
}

test("vault tamper: of a store with parts of an older state each point is judged as it reads", async () => {
  const folders = [...new Set([...objects.keys()].map((name) => name.split("/")[0] ?? ""))];
  let replays = 0;
  let damaged = 0;
  for (const [at, old] of small.states.slice(0, -1).entries()) {
    for (let bits = 1; bits < 2 ** folders.length; bits++) {
      if (!isLong && random.chance(0.92)) continue;
      const chosen = new Set(folders.filter((_, index) => (bits >> index) & 1));
      const what = `${[...chosen].join()} of state ${at}`;
      const report = await assertJudged(mixStates(old, chosen), what);
      replays++;
      if (report.verdict !== "sound") damaged++;
      // Points that need what is gone are all there; those that are gone take nothing along.
      if (chosen.has("points")) continue;
      const isWhole = [...objects.keys()].every((name) => {
        const isData = name.startsWith("packs/") || name.startsWith("maps/");
        return !isData || !chosen.has(name.split("/")[0] ?? "") || old.has(name);
      });
      if (!isWhole) assert.equal(report.verdict, "damaged", what);
    }
  }
  console.log(`replays: ${replays}, ${damaged} of them touch points, all as reading says`);
});
