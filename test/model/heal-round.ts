/**
 * One round of damage and healing on a disk in memory; see heal-model.test.ts.
 */
import assert from "node:assert/strict";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit, replaceObject } from "#testing/damage.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom, type SeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import { type VerifyReport, verifyVault } from "#vault/verify.ts";

const page = 4096;
const diskBytes = 9 * 1024 * 1024 + 512;

function writeRandomly(disk: MemoryDisk, random: SeededRandom): void {
  for (let write = random.integer(1, 12); write > 0; write--) {
    const pages = random.chance(0.3) ? random.integer(20, 200) : random.integer(1, 3);
    const offset = random.integer(0, Math.floor(diskBytes / page) - 1) * page;
    const length = Math.min(pages * page, diskBytes - offset);
    if (random.chance(0.15)) disk.zero(offset, length);
    else disk.write(offset, random.bytes(length));
  }
}

/** Damages some objects that points need; returns what was done. */
async function damage(
  store: ObjectStore,
  random: SeededRandom,
  ways: readonly ("remove" | "cut" | "flip")[],
): Promise<readonly string[]> {
  const names: string[] = [];
  for await (const { name } of store.list("")) {
    const kind = parseStoreName(name)?.kind;
    if (kind === "pack" || kind === "map-pack" || kind === "index-segment") names.push(name);
  }
  const done: string[] = [];
  for (let count = random.integer(1, 3); count > 0; count--) {
    const name = random.pick(names);
    const bytes = await store.get(name).catch(() => undefined);
    if (bytes === undefined) continue;
    const how = random.pick(ways);
    done.push(`${how} ${name}`);
    if (how === "remove") await store.remove(name);
    else if (how === "flip")
      await flipObjectBit(store, name, random.integer(0, bytes.length * 8 - 1));
    else await replaceObject(store, name, bytes.slice(0, random.integer(1, bytes.length - 1)));
  }
  return done;
}

/** Reads a point; false where it says that something is lost. Wrong content fails the test. */
async function isWhole(store: ObjectStore, point: KeptPoint): Promise<boolean> {
  await using vault = await openTestVault({ store });
  try {
    await assertPointReads(vault, point);
    return true;
  } catch (error) {
    if (isKluisError(error)) return false;
    throw error;
  }
}

/** What verification says of each point is what reading it back says. */
async function assertVerdicts(
  store: ObjectStore,
  points: readonly KeptPoint[],
  record: boolean,
): Promise<VerifyReport> {
  await using vault = await openTestVault({ store });
  const keys = testKeys;
  const report = await verifyVault({ store, keys, vault, clock: systemClock, workers: 1, record });
  assert.equal(report.points.length, points.length);
  for (const point of points) {
    const { pointId } = point.manifest;
    const judged = report.points.find(({ name }) => name.pointId === pointId);
    const verdict = (await isWhole(store, point)) ? "sound" : "damaged";
    assert.equal(judged?.verdict, verdict, `point ${pointId}`);
  }
  return report;
}

/** What one round came to; whatever is not as it must be has thrown. */
export interface HealCount {
  /** Objects that were removed, cut or changed. */
  damaged: number;
  /** Backups after that, every one of them whole. */
  backups: number;
  /** Verdicts on points that agreed with reading the point back. */
  verdicts: number;
}

/** Takes points, damages objects, takes more, and asserts that each of these is whole. */
export async function runHealRound(label: string): Promise<HealCount> {
  const random = createSeededRandom(label);
  const store = createMemoryStore();
  const disk = new MemoryDisk(diskBytes);
  const points: KeptPoint[] = [];
  const count: HealCount = { damaged: 0, backups: 0, verdicts: 0 };
  const back = async (): Promise<KeptPoint> => {
    const base = points.at(-1);
    // A vault of its own, as another host would have: no index in memory knows what was there.
    await using vault = await openTestVault({ store });
    const options = { itemId: "disk", number: points.length + 1, disks: [disk] };
    const kept = await backUp(vault, base === undefined ? options : { ...options, base });
    points.push(kept);
    return kept;
  };
  for (let step = 0; step < 3; step++) {
    writeRandomly(disk, random);
    await back();
  }
  for (let step = 0; step < 2; step++) {
    // What is absent or short shows in the listing; what is changed has to be found by a check.
    const isChecked = random.chance(0.5);
    const done = await damage(
      store,
      random,
      isChecked ? ["remove", "cut", "flip"] : ["remove", "cut"],
    );
    count.damaged += done.length;
    if (isChecked) {
      const report = await assertVerdicts(store, points, true);
      count.verdicts += points.length;
      assert.equal(report.verdict, "damaged", done.join(", "));
    }
    if (random.chance(0.5)) writeRandomly(disk, random);
    assert.ok(await isWhole(store, await back()), `not healed after ${done.join(", ")}`);
    count.backups++;
  }
  const report = await assertVerdicts(store, points, false);
  count.verdicts += points.length;
  assert.equal(report.points.at(-1)?.verdict, "sound");
  return count;
}
