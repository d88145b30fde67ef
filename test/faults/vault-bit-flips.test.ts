// Goal: no damage of any object gives wrong data, an untyped error or a hang; whatever is not as it
// was written is found and named.
// Method: a small vault; change, cut, lengthen, swap or remove each of its objects; open it with its
// key, read every point, and check every name. KLUIS_LONG=1 takes every byte instead of a sample.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { keyRecordDamage } from "#formats/key-record.ts";
import { indexSegmentName, parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { isInSlice, takesAll } from "#testing/slice.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import { createKeyFileSecret } from "#vault/key-secret.ts";
import { BlockReader } from "#vault/reader/block-reader.ts";
import { NodeReader } from "#vault/reader/node-reader.ts";
import { VaultDiskReader } from "#vault/reader/vault-disk-reader.ts";
import { createVaultFiles, openVaultFiles } from "#vault/vault-files.ts";
import { verifyVault, type VerifyReport } from "#vault/verify.ts";
import { WorkerPool } from "#vault/workers/worker-pool.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const flipsMin = takesAll ? 2000 : 800;
const random = createSeededRandom("bit flips");
const { secret } = createKeyFileSecret(random);

type Objects = ReadonlyMap<string, Uint8Array>;

/** Two points of two disks in a vault of some ten KiB. */
async function createSmallVault(): Promise<{ objects: Objects; points: readonly KeptPoint[] }> {
  const store = createMemoryStore();
  const created = await createVaultFiles(store, {
    secrets: [secret],
    random,
    withRecoveryKey: false,
  });
  await using vault = await openTestVault({ store, keys: created.keys });
  const disks = [new MemoryDisk(600 * 1024), new MemoryDisk(20_480 + 512)];
  for (const disk of disks) disk.write(4096, random.bytes(3000));
  disks[0]?.write(500_000, random.bytes(2000));
  const full = await backUp(vault, { itemId: "vm", number: 1, disks });
  for (const disk of disks) disk.write(8192, random.bytes(1500));
  const next = await backUp(vault, { itemId: "vm", number: 2, disks, base: full });
  const objects = new Map<string, Uint8Array>();
  for await (const { name } of store.list("")) objects.set(name, await store.get(name));
  return { objects, points: [full, next] };
}

const { objects, points } = await createSmallVault();
const keys = (await openVaultFiles(createMemoryStore(objects), secret)).keys;
const sizeBytes = [...objects.values()].reduce((sum, bytes) => sum + bytes.byteLength, 0);
assert.ok(sizeBytes <= 64 * 1024, `the small vault has ${sizeBytes} bytes`);
/** One for all runs: threads take longer to start than everything else. */
const pool = new WorkerPool({ start: { keys, verify: false }, size: 1 });
after(() => pool[Symbol.asyncDispose]());

const room = new Uint8Array(1024 * 1024);
const garbage = random.bytes(300);

/** Opens a vault and reads all its points; returns how many there were. Fails on wrong data. */
async function readEverything(store: ObjectStore): Promise<number> {
  const opened = await openVaultFiles(store, secret);
  await using vault = await openTestVault({ store, keys: opened.keys });
  const { locator } = vault;
  const access = new NodeReader({ store, keys, locator });
  const blocks = new BlockReader({ store, keys, locator, pool, workers: 1 });
  const names = await vault.listPoints();
  for (const name of names) {
    const manifest = await vault.readPoint(name);
    const kept = points.find((point) => point.manifest.pointId === name.pointId);
    assert.ok(kept);
    assert.deepEqual(manifest, kept.manifest);
    for (const [at, disk] of manifest.disks.entries()) {
      await using reader = new VaultDiskReader(disk, { access, blocks }, async () => {});
      const content = room.subarray(0, reader.sizeBytes);
      await reader.read(0, content);
      assert.ok(bytesEqual(content, kept.disks[at]?.bytes() ?? garbage), "wrong data");
    }
  }
  return names.length;
}

/** Whether reading fails, with a typed error that says where; it never gives wrong data. */
async function failsToRead(changed: Objects, damaged: readonly string[]): Promise<boolean> {
  try {
    await readEverything(createMemoryStore(changed));
    return false;
  } catch (error) {
    assert.ok(isKluisError(error), `an error that is not ours: ${String(error)}`);
    assert.notEqual(error.code, "Internal", error.message);
    assert.ok(saysWhere(error, damaged), `${error.message} (damaged: ${damaged.join()})`);
    return true;
  }
}

function saysWhere(error: KluisError, damaged: readonly string[]): boolean {
  const { block, node } = error.details;
  if (block !== undefined || node !== undefined) return true;
  if (damaged.some((name) => error.message.includes(name))) return true;
  // The header and the slots have a place of their own; a slot that is damaged opens with no key.
  return damaged.some((name) => name === "vault.json" || name.startsWith("keys/"));
}

/** Whether an object is not what its name says, which needs no key to see. */
function isMisnamed(name: string, bytes: Uint8Array): boolean {
  const parsed = parseStoreName(name);
  if (parsed?.kind === "key-record") return keyRecordDamage(bytes, parsed) !== undefined;
  if (parsed === undefined || !("sha256" in parsed)) return false;
  return toHex(parsed.sha256) !== createHash("sha256").update(bytes).digest("hex");
}

function withObject(name: string, bytes: Uint8Array): Objects {
  return new Map(objects).set(name, bytes);
}

/** Asserts that a change of one object is found, by its name or by reading. */
async function assertFound(name: string, bytes: Uint8Array, what: string): Promise<void> {
  const isRead = !(await failsToRead(withObject(name, bytes), [name]));
  assert.ok(!isRead || isMisnamed(name, bytes), `${name}: ${what} is not found`);
}

test("vault bit flips: the vault reads as it is", async () => {
  assert.equal(await readEverything(createMemoryStore(objects)), points.length);
});

test("vault bit flips: each changed byte of each object is found and named, or does no harm", async () => {
  const masks = isLong ? [0x01, 0x80, 0xff] : [0];
  let flips = 0;
  for (const [name, bytes] of objects) {
    // A few of every object, and of large ones more.
    const share = Math.ceil((flipsMin * bytes.byteLength) / sizeBytes) + 20;
    const step = isLong ? 1 : Math.max(1, Math.floor(bytes.byteLength / share));
    for (let at = random.integer(0, step - 1); at < bytes.byteLength; at += step) {
      for (const mask of masks) {
        const changed = bytes.slice();
        changed[at]! ^= mask === 0 ? random.integer(1, 255) : mask;
        await assertFound(name, changed, `a change of byte ${at}`);
        flips++;
      }
    }
  }
  console.log(`${flips} changed bytes in ${objects.size} objects of ${sizeBytes} bytes`);
  assert.ok(flips >= flipsMin);
});

test("vault bit flips: each object cut, lengthened, emptied or filled with zeros is found", async () => {
  let cases = 0;
  for (const [name, bytes] of objects) {
    const lengths = new Set([0, 1, 63, 64, 65, 79, bytes.byteLength - 16, bytes.byteLength - 1]);
    for (let more = isLong ? 200 : 8; more > 0; more--) {
      lengths.add(random.integer(0, bytes.byteLength - 1));
    }
    const texts: Uint8Array[] = [...lengths]
      .filter((length) => length < bytes.byteLength)
      .map((length) => bytes.slice(0, length));
    for (const more of [1, 16, 100]) {
      const longer = new Uint8Array(bytes.byteLength + more);
      longer.set(bytes);
      texts.push(longer);
    }
    texts.push(new Uint8Array(bytes.byteLength), random.bytes(bytes.byteLength));
    for (const text of texts) {
      await assertFound(name, text, `a text of ${text.byteLength} bytes`);
      cases++;
    }
  }
  console.log(`${cases} cut, longer or foreign texts`);
});

test("vault bit flips: an object in the place of another is found", async () => {
  let swaps = 0;
  for (const [name, bytes] of objects) {
    for (const [other, text] of objects) {
      // A key record and its copy hold the same.
      if (other === name || bytesEqual(text, bytes) || !isInSlice(3)) continue;
      await assertFound(name, text, `the content of "${other}"`);
      const swapped = new Map(objects).set(name, text).set(other, bytes);
      assert.ok((await failsToRead(swapped, [name, other])) || isMisnamed(name, text));
      swaps++;
    }
  }
  console.log(`${swaps} swaps`);
});

test("vault bit flips: a missing object is found where a point needs it; a missing point is not", async () => {
  for (const name of objects.keys()) {
    const left = new Map(objects);
    left.delete(name);
    // What is missing of these is told by verification, without a key.
    const isUnread = ["points/", "inventory/", "ring/"].some((start) => name.startsWith(start));
    assert.equal(await failsToRead(left, [name]), !isUnread, name);
  }
});

test("vault bit flips: objects that a stranger put do no harm", async () => {
  const sha256 = createHash("sha256").update(garbage).digest();
  const segment = [...objects].find(([name]) => name.startsWith("index/"))?.[1] ?? garbage;
  const flipped = segment.slice();
  flipped[100]! ^= 1;
  const renamed = createHash("sha256").update(flipped).digest();
  for (const [name, content] of [
    [indexSegmentName(sha256), garbage],
    [indexSegmentName(renamed), flipped],
    ["index/readme.txt", garbage],
    ["points/0123/notes", garbage],
    ["lost-and-found/x", garbage],
  ] as const) {
    assert.equal(await readEverything(createMemoryStore(withObject(name, content))), 2, name);
  }
});

function badNames(report: VerifyReport): readonly string[] {
  return report.badObjects.map((bad) => bad.name);
}

async function verify(changed: Objects): Promise<VerifyReport> {
  const store = createMemoryStore(changed);
  await using vault = await openTestVault({ store, keys });
  return await verifyVault({ store, keys, vault, clock: systemClock, workers: 1 });
}

test("vault bit flips: verification names the damaged object and the points it touches", async () => {
  assert.equal((await verify(objects)).verdict, "sound");
  for (const [name, bytes] of objects) {
    if (name === "vault.json") continue;
    const parsed = parseStoreName(name);
    const places = isLong ? 60 : 2;
    for (let turn = 0; turn < places; turn++) {
      const changed = bytes.slice();
      const at = random.integer(0, bytes.byteLength - 1);
      changed[at]! ^= 1 << random.integer(0, 7);
      const report = await verify(withObject(name, changed));
      assert.notEqual(report.verdict, "sound", `byte ${at} of ${name}`);
      assert.deepEqual(badNames(report), [name]);
      const isRead = !(await failsToRead(withObject(name, changed), [name]));
      const touched = report.points.filter(({ verdict }) => verdict !== "sound").length;
      const isKey = parsed?.kind === "slot" || parsed?.kind === "key-record";
      if (!isKey) assert.equal(touched > 0, !isRead, `byte ${at} of ${name}`);
    }
  }
});
