// Goal: at whatever change of either place of a WORM store a backup dies, every acknowledged point
// reads, also with the control place wiped; the next backup completes what was cut off, and then
// every listed point reads from the locked place alone.
// Method: the second backup of a chain dies before or after its n-th change; for every n of the end, and a third of the rest.
// KLUIS_LONG=1 takes every n.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { createMemoryWormStore, type MemoryWormOptions } from "#drivers/store/memory-worm-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { isInSlice } from "#testing/slice.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";

const dayMs = 24 * 3600 * 1000;
const mib = 1024 * 1024;
const policy = { periodMs: 30 * dayMs, generationMs: 10 * dayMs };
const isLong = process.env["KLUIS_LONG"] === "1";
const random = createSeededRandom("worm crash cuts");

class Crash extends Error {}

/** Dies at one moment, and is dead from then on. */
class Fuse {
  moments = 0;
  isDead = false;
  readonly #at: number;

  constructor(at: number) {
    this.#at = at;
  }

  pass = (): void => {
    if (this.isDead || this.moments++ === this.#at) {
      this.isDead = true;
      throw new Crash();
    }
  };
}

/** A store whose changes burn a fuse, before they take effect and after. */
function fused(store: ObjectStore, fuse: Fuse): ObjectStore {
  const change = async <T>(apply: () => Promise<T>): Promise<T> => {
    fuse.pass();
    const result = await apply();
    fuse.pass();
    return result;
  };
  return {
    location: store.location,
    put: (name, parts, signal) => change(() => store.put(name, parts, signal)),
    remove: (name, signal) => change(() => store.remove(name, signal)),
    get: (name, range, signal) => store.get(name, range, signal),
    stat: (name, signal) => store.stat(name, signal),
    list: (prefix, signal) => store.list(prefix, signal),
    probe: (signal) => store.probe(signal),
  };
}

async function copyOf(store: ObjectStore): Promise<ObjectStore> {
  const objects: [string, Uint8Array][] = [];
  for await (const { name } of store.list("")) objects.push([name, await store.get(name)]);
  return createMemoryStore(objects);
}

/** Both places after the first backup, and what the second one writes. */
async function prepare() {
  const clock = new ManualClock();
  const control = createMemoryStore();
  const world: MemoryWormOptions = { policy, clock, versions: new Map(), control };
  const disk = new MemoryDisk(3 * mib);
  disk.write(0, random.bytes(2 * mib));
  await using vault = await openTestVault({ store: createMemoryWormStore(world) });
  const first = await backUp(vault, { itemId: "vm", number: 1, disks: [disk] });
  // So late that what the first point holds needs a longer lock.
  await clock.advance(35 * dayMs);
  disk.write(mib, random.bytes(40_000));
  return { world, control, first, disk };
}

/** Runs the second backup until its fuse has burned down; the point where it was acknowledged. */
async function backUpUntil(
  fuse: Fuse,
  { world, control, first, disk }: Awaited<ReturnType<typeof prepare>>,
): Promise<{ readonly left: MemoryWormOptions; readonly second: KeptPoint | undefined }> {
  const left = { ...world, versions: new Map(world.versions), control: await copyOf(control) };
  const dying = { ...left, control: fused(left.control, fuse), onChange: fuse.pass };
  try {
    await using vault = await openTestVault({ store: createMemoryWormStore(dying) });
    const second = await backUp(vault, { itemId: "vm", number: 2, disks: [disk], base: first });
    return { left, second };
  } catch (error) {
    if (!fuse.isDead) throw error;
    return { left, second: undefined };
  }
}

async function assertReads(store: ObjectStore, kept: readonly KeptPoint[]): Promise<number> {
  await using vault = await openTestVault({ store });
  const points = await vault.listPoints();
  const ids = new Set(points.map(({ pointId }) => pointId));
  for (const point of kept) {
    assert.ok(ids.has(point.manifest.pointId), "an acknowledged point is there");
    await assertPointReads(vault, point);
  }
  for (const point of points) {
    const { disks } = await vault.readPoint(point);
    for (const disk of disks) {
      await using reader = vault.openDisk(disk);
      await reader.read(0, new Uint8Array(disk.sizeBytes));
    }
  }
  return points.length;
}

test("WORM crash cuts: wherever a backup dies, what was acknowledged reads, and the next one completes the rest", async () => {
  const prepared = await prepare();
  const whole = new Fuse(Number.POSITIVE_INFINITY);
  await backUpUntil(whole, prepared);
  assert.ok(whole.moments > 30, "the second backup changes both places and extends locks");
  let completed = 0;
  let acknowledged = 0;
  for (let at = 0; at < whole.moments; at++) {
    // The commit and what follows it stand at the end.
    if (!isLong && at < whole.moments - 18 && at % 3 > 0) continue;
    if (!isInSlice(2) && at < whole.moments - 6) continue;
    const { left, second } = await backUpUntil(new Fuse(at), prepared);
    const kept = second === undefined ? [prepared.first] : [prepared.first, second];
    if (second !== undefined) acknowledged++;
    const before = await assertReads(createMemoryWormStore(left), kept);
    const wiped = { ...left, control: createMemoryStore() };
    const alone = await assertReads(createMemoryWormStore(wiped), kept);
    if (before > alone) completed++;
    await using vault = await openTestVault({ store: createMemoryWormStore(left) });
    const { first, disk } = prepared;
    kept.push(await backUp(vault, { itemId: "vm", number: 3, disks: [disk], base: first }));
    const after = await assertReads(createMemoryWormStore({ ...left, control: undefined }), kept);
    assert.equal(after, before + 1, "every point of the control place has its copy");
  }
  console.log(
    `WORM crash cuts: ${whole.moments} moments, ${acknowledged} after the acknowledgement, ` +
      `${completed} with a commit whose copy was missing`,
  );
  assert.ok(completed > 0);
});
