// Goal: real processes back up the same item and different ones on one store of files while others
// delete and collect; some are killed, some stopped for a while: every point that was acknowledged and
// not deleted restores byte for byte, and what is not needed is freed in the end.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { assertVaultSound } from "#testing/gc-points.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { assertPointReads } from "#testing/vault-points.ts";
import { disksOf } from "./writer-disks.ts";

const random = createSeededRandom("gc processes");
const seed = `seed ${random.integer(0, 1e9)}`;
const isLong = process.env["KLUIS_LONG"] === "1";
const pointsEach = isLong ? 30 : 5;

/** A process and what it said. */
class Worker {
  readonly said: string[] = [];
  readonly child: ChildProcess;
  readonly ended: Promise<unknown[]>;
  isOver = false;

  constructor(args: readonly string[]) {
    const script = join(import.meta.dirname, "gc-worker.ts");
    this.child = spawn(process.execPath, [script, ...args], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.ended = once(this.child, "close").finally(() => (this.isOver = true));
    const { stdout } = this.child;
    assert.ok(stdout);
    createInterface({ input: stdout }).on("line", (line) => this.said.push(line));
  }

  /** What stands behind `word` in the lines that begin with it. */
  linesOf(word: string): readonly string[] {
    return this.said.flatMap((line) =>
      line.startsWith(`${word} `) ? [line.slice(word.length + 1)] : [],
    );
  }
}

interface Counts {
  kills: number;
  stops: number;
}

/** Stops, wakes and kills until all writers ended; a collector that was killed is replaced. */
async function disturb(
  writers: readonly Worker[],
  collectors: Worker[],
  restart: () => Worker,
): Promise<Counts> {
  const counts = { kills: 0, stops: 0 };
  let writerKills = 1;
  while (writers.some(({ isOver }) => !isOver)) {
    await systemClock.sleep(random.integer(20, 300));
    const target = random.pick([...writers, ...collectors].filter(({ isOver }) => !isOver));
    const isWriter = writers.includes(target);
    if (random.chance(0.25) && (!isWriter || writerKills-- > 0)) {
      target.child.kill("SIGKILL");
      counts.kills++;
      if (!isWriter) collectors.push(restart());
    } else if (random.chance(0.5)) {
      target.child.kill("SIGSTOP");
      counts.stops++;
      await systemClock.sleep(random.integer(100, 1200));
      target.child.kill("SIGCONT");
    }
  }
  return counts;
}

/** Restores every acknowledged point that nobody deleted; returns how many. */
async function assertAcknowledged(
  store: ObjectStore,
  writers: readonly { readonly name: string; readonly acks: readonly string[] }[],
  deleted: ReadonlySet<string>,
): Promise<number> {
  await using vault = await openTestVault({ store });
  await using _ = vault.openDisk({ root: undefined, sizeBytes: 0 });
  const points = new Map((await vault.listPoints()).map((point) => [point.pointId, point]));
  let restored = 0;
  for (const { name, acks } of writers) {
    const states = new Map(acks.map((ack) => ack.split(" ") as [string, string]));
    let state = 0;
    for (const disk of disksOf(seed, name)) {
      if (state++ === pointsEach) break;
      const pointId = states.get(String(state));
      if (pointId === undefined || deleted.has(pointId)) continue;
      const point = points.get(pointId);
      assert.ok(point, `${pointId} of ${name} was acknowledged`);
      await assertPointReads(vault, { manifest: await vault.readPoint(point), disks: [disk] });
      restored++;
    }
  }
  await assertVaultSound(store, vault);
  return restored;
}

test("gc processes: backups, deletions and collections that are killed and stopped lose nothing", async () => {
  await using folder = await createTempFolder();
  const root = join(folder.path, "store");
  const store = await openFileStore(root, { create: true });
  const names = ["a", "b", "c"];
  // Two of them back up one item.
  const items = ["x", "y", "y"];
  const writers = names.map(
    (name, at) =>
      new Worker(
        ["backup", root, seed, name, items[at] ?? ""].concat(String(at * 1000), String(pointsEach)),
      ),
  );
  let collections = 0;
  const startCollector = (): Worker =>
    new Worker(["collect", root, seed, `collector ${collections++}`]);
  const collectors = [startCollector(), startCollector()];
  try {
    const counts = await disturb(writers, collectors, startCollector);
    for (const { child } of collectors) child.kill("SIGKILL");
    await Promise.all([...writers, ...collectors].map(({ ended }) => ended));
    const deleted = new Set(collectors.flatMap((one) => one.linesOf("deleted")));
    const acks = writers.map((one, at) => ({ name: names[at] ?? "", acks: one.linesOf("ack") }));
    const restored = await assertAcknowledged(store, acks, deleted);
    await using vault = await openTestVault({ store });
    const options = { allowMassDeletion: true, unusedShare: 0, abandonAfterMs: -1 } as const;
    assert.notEqual((await vault.collect(options)).end, "gave-up");
    assert.equal(await assertAcknowledged(store, acks, deleted), restored);
    const left = await vault.collect({ ...options, dryRun: true });
    assert.equal(left.plan?.garbageBytes, 0, "no garbage is left");
    const ends = collectors.flatMap((one) => one.linesOf("collected"));
    const fenced = writers.flatMap(({ said }) => said.filter((line) => line === "fenced"));
    const done = ends.filter((end) => end === "done").length;
    console.log(
      `${restored} points restored, ${deleted.size} deleted, ${done} of ${ends.length} collections done, ` +
        `${fenced.length} backups fenced, ${counts.kills} kills, ${counts.stops} stops`,
    );
    assert.ok(restored > 0);
  } finally {
    for (const { child } of [...writers, ...collectors]) child.kill("SIGKILL");
  }
});
