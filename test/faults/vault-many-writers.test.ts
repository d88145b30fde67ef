// Goal: any number of writers on one store, in one process or several, share what they store and
// never harm each other: every point that was acknowledged reads back, whoever failed or was killed.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore, PutOutcome } from "#ports/object-store.ts";
import { FaultyStore, injectedError } from "#testing/faulty-store.ts";
import type { MemoryDisk } from "#testing/memory-disk.ts";
import { assertVaultSound } from "#testing/gc-points.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { assertPointReads, backUp, type KeptPoint } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";
import { disksOf } from "./writer-disks.ts";

const random = createSeededRandom("many writers");
const seed = `seed ${random.integer(0, 1e9)}`;
const isLong = process.env["KLUIS_LONG"] === "1";

/** Asserts that the vault holds every one of `points`, that all read back, and that nothing is damaged. */
async function assertAllRead(store: ObjectStore, points: readonly KeptPoint[]): Promise<void> {
  await using vault = await openTestVault({ store });
  await using _ = vault.openDisk({ root: undefined, sizeBytes: 0 });
  for (const kept of points) {
    const { itemId, pointId } = kept.manifest;
    const name = (await vault.listPoints(itemId)).find((point) => point.pointId === pointId);
    assert.ok(name, `point ${pointId} of ${itemId} is there`);
    assert.deepEqual(await vault.readPoint(name), kept.manifest);
    await assertPointReads(vault, kept);
  }
  await assertVaultSound(store, vault);
}

/** Writes so many points of a writer's disk, each an increment of the last. */
async function writePoints(vault: Vault, writer: string, points: number): Promise<KeptPoint[]> {
  const written: KeptPoint[] = [];
  for (const disk of disksOf(seed, writer)) {
    if (written.length === points) break;
    const base = written.at(-1);
    const number = written.length + 1;
    written.push(
      await backUp(vault, { itemId: writer, number, disks: [disk], ...(base && { base }) }),
    );
  }
  return written;
}

test("vault many writers: two vaults on one store at once share blocks, and all points read", async () => {
  const store = createMemoryStore();
  await using first = await openTestVault({ store });
  await using second = await openTestVault({ store, workers: 2 });
  const written = await Promise.all([
    writePoints(first, "a", 4),
    writePoints(second, "b", 4),
    writePoints(first, "c", 4),
  ]);
  await assertAllRead(store, written.flat());
  // A vault that was open all the time sees what the other committed.
  for (const kept of written.flat()) await assertPointReads(second, kept);
  const third = await writePoints(second, "d", 1);
  const disk = third[0]?.manifest.disks[0];
  assert.ok(
    disk && disk.newBytes <= disk.changedBytes / 2,
    "what others stored is not stored again",
  );
});

/** A store on which index segments wait until they are let through. */
class GatedStore extends FaultyStore {
  #let: (() => void) | undefined;
  #isWaiting: (() => void) | undefined;
  readonly waiting = new Promise<void>((resolve) => (this.#isWaiting = resolve));

  override async put(...args: Parameters<ObjectStore["put"]>): Promise<PutOutcome> {
    if (args[0].startsWith("index/")) {
      this.#isWaiting?.();
      await new Promise<void>((resolve) => (this.#let = resolve));
    }
    return super.put(...args);
  }

  letThrough(): void {
    this.#let?.();
  }
}

test("vault many writers: a point does not rest on blocks of a backup that fails beside it", async () => {
  const [disk] = disksOf(seed, "same") as Iterable<MemoryDisk>;
  assert.ok(disk);
  const inner = createMemoryStore();
  const gated = new GatedStore(inner);
  /** The first backup goes through the gate, the second past it. */
  let isFirst = true;
  const store = new Proxy(inner, {
    get(target, property, receiver): unknown {
      const from = property === "put" && isFirst ? gated : target;
      const value: unknown = Reflect.get(from, property, receiver === store ? from : receiver);
      return typeof value === "function" ? (value.bind(from) as unknown) : value;
    },
  });
  await using vault = await openTestVault({ store });
  const failing = backUp(vault, { itemId: "first", number: 1, disks: [disk] });
  await gated.waiting;
  isFirst = false;
  const kept = await backUp(vault, { itemId: "second", number: 1, disks: [disk] });
  gated.failNext("put", injectedError());
  isFirst = true;
  gated.letThrough();
  await assert.rejects(failing, (error) => isKluisError(error, "StoreUnavailable"));
  await assertAllRead(inner, [kept]);
});

test("vault many writers: of two that commit one id one is told that it exists", async () => {
  const store = createMemoryStore();
  await using first = await openTestVault({ store });
  await using second = await openTestVault({ store });
  const results = await Promise.allSettled(
    [first, second].map(async (vault, at) => {
      const [disk] = disksOf(seed, `racer ${at}`) as Iterable<MemoryDisk>;
      assert.ok(disk);
      return await backUp(vault, { itemId: "race", number: 7, disks: [disk] });
    }),
  );
  const [won, ...others] = results.flatMap((one) =>
    one.status === "fulfilled" ? [one.value] : [],
  );
  const lost = results.flatMap((one) => (one.status === "rejected" ? [one.reason as unknown] : []));
  assert.ok(won !== undefined && others.length === 0 && lost.length === 1);
  assert.ok(isKluisError(lost[0], "RecoveryPointExists"));
  await assertAllRead(store, [won]);
});

/** Starts a writer process; resolves when it is ready. */
async function startWriter(folder: string, writer: string, points: number) {
  const script = join(import.meta.dirname, "vault-writer.ts");
  const args = [script, join(folder, "store"), join(folder, "cache"), seed, writer, String(points)];
  const child = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = once(child, "close");
  const lines = createInterface({ input: child.stdout });
  const acks: number[] = [];
  await new Promise<void>((resolve) => {
    lines.on("line", (line) => {
      if (line === "ready") resolve();
      else acks.push(Number(line.slice("ack ".length)));
    });
  });
  return {
    acks,
    go: () => child.stdin.end("go\n"),
    kill: () => child.kill("SIGKILL"),
    /** Resolves with the numbers of the points that were acknowledged. */
    async end(): Promise<{ acks: number[]; signal: unknown; code: unknown }> {
      const [code, signal] = (await ended) as unknown[];
      return { acks, code, signal };
    },
  };
}

/** The points that a writer acknowledged, with their disks made again. */
async function keptOf(
  store: ObjectStore,
  writer: string,
  acks: readonly number[],
): Promise<KeptPoint[]> {
  await using vault = await openTestVault({ store });
  const names = await vault.listPoints(writer);
  const disks = disksOf(seed, writer);
  const kept: KeptPoint[] = [];
  for (const number of acks) {
    const disk = disks.next().value as MemoryDisk;
    const name = names[number - 1];
    assert.ok(name, `point ${number} of ${writer} is there`);
    kept.push({ manifest: await vault.readPoint(name), disks: [disk] });
  }
  return kept;
}

test("vault many writers: processes on one file store, some killed, with one index cache", async () => {
  await using folder = await createTempFolder();
  const points = isLong ? 20 : 4;
  const names = ["p", "q", "r"];
  const running = await Promise.all(names.map((name) => startWriter(folder.path, name, points)));
  for (const writer of running) writer.go();
  const victim = running[2];
  assert.ok(victim);
  // Killed in the middle of its second point or so.
  while (victim.acks.length === 0) await new Promise(setImmediate);
  for (let turns = random.integer(0, 3000); turns > 0; turns--) await new Promise(setImmediate);
  victim.kill();
  const ends = await Promise.all(running.map((writer) => writer.end()));
  assert.deepEqual(ends.map(({ acks }) => acks.length).slice(0, 2), [points, points]);
  assert.deepEqual(ends.map(({ code }) => code).slice(0, 2), [0, 0]);
  const store = await openFileStore(join(folder.path, "store"));
  const kept: KeptPoint[] = [];
  for (const [at, { acks }] of ends.entries()) {
    kept.push(...(await keptOf(store, names[at] ?? "", acks)));
  }
  await assertAllRead(store, kept);
  const again = await startWriter(folder.path, "s", 2);
  again.go();
  const { acks, code } = await again.end();
  assert.deepEqual([acks, code], [[1, 2], 0]);
  await assertAllRead(store, await keptOf(store, "s", acks));
  console.log(
    `${kept.length} points of ${names.length} processes, ${ends[2]?.acks.length} of the killed one`,
  );
});
