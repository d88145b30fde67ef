// Goal: whatever moment a kluis process is killed or stopped at, each point that it acknowledged is
// there and restores, each point that is there restores though nobody was told of it, a target is
// whole or what it was before, and the next run works.
// Method: the real command; SIGKILL at random moments of its work, told by what it does to files, and
// SIGSTOP while another one works on the same store. KLUIS_LONG=1 runs thirty times as many.
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { type FSWatcher, watch } from "node:fs";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { bytesEqual } from "#base/bytes.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads } from "#testing/vault-points.ts";
import { toKeyFileSecret } from "#vault/key-secret.ts";
import type { PointName, Vault } from "#vault/vault.ts";
import { openVaultFiles } from "#vault/vault-files.ts";
import { verifyVault } from "#vault/verify.ts";
import { type CliResult, type CliWorld, collect, createWorld } from "../e2e/cli.ts";

const mib = 1024 * 1024;
const isLong = process.env["KLUIS_LONG"] === "1";
const rounds = isLong ? 100 : 3;
const random = createSeededRandom("cli kill");

/** An image that changes, and what each point of it has to hold. */
class Subject {
  readonly world: CliWorld;
  readonly name: string;
  readonly disk = new MemoryDisk(24 * mib);
  readonly #points = new Map<string, MemoryDisk>();
  readonly #acknowledged = new Set<string>();

  constructor(world: CliWorld, name: string) {
    this.world = world;
    this.name = name;
    this.disk.write(0, random.bytes(10 * mib));
  }

  get acknowledged(): number {
    return this.#acknowledged.size;
  }

  get points(): number {
    return this.#points.size;
  }

  /** Changes some pages and starts a backup of the image. */
  async startBackup(): Promise<{ readonly child: ChildProcess; readonly end: Promise<CliResult> }> {
    for (let pages = random.integer(1, 400); pages > 0; pages--) {
      this.disk.write(random.integer(0, 6000) * 4096, random.bytes(4096));
    }
    await writeFile(this.world.at(this.name), this.disk.bytes());
    const words = ["image", "backup", this.name, ...this.world.vault, "--output", "json"];
    const child = this.world.start(words);
    return { child, end: collect(child) };
  }

  /** Notes the point that a backup told of, if it came so far. */
  note({ code, stdout }: CliResult): void {
    if (code !== 0) return;
    const { point } = JSON.parse(stdout) as { readonly point: { readonly id: string } };
    this.#acknowledged.add(point.id);
  }

  /** Every acknowledged point is there; every one that is new holds what the image holds now. */
  async check(): Promise<void> {
    await using opened = await openWorld(this.world);
    const found = new Set<string>();
    for (const name of await opened.vault.listPoints(this.world.at(this.name))) {
      found.add(name.pointId);
      if (this.#points.has(name.pointId)) continue;
      const disk = this.disk.snapshot();
      this.#points.set(name.pointId, disk);
      await assertReads(opened.vault, name, disk);
    }
    for (const id of this.#acknowledged) assert.ok(found.has(id), `point ${id} is there`);
  }

  /** Reads every point there ever was, and verifies the whole vault. */
  async checkAll(): Promise<void> {
    await using opened = await openWorld(this.world);
    const names = await opened.vault.listPoints(this.world.at(this.name));
    assert.deepEqual(new Set(names.map(({ pointId }) => pointId)), new Set(this.#points.keys()));
    for (const name of names) {
      const disk = this.#points.get(name.pointId);
      assert.ok(disk);
      await assertReads(opened.vault, name, disk);
    }
    const { store, keys, vault } = opened;
    const report = await verifyVault({ store, keys, vault, clock: systemClock, workers: 1 });
    assert.deepEqual([report.verdict, report.badObjects], ["sound", []]);
  }
}

async function assertReads(vault: Vault, name: PointName, disk: MemoryDisk): Promise<void> {
  await assertPointReads(vault, { manifest: await vault.readPoint(name), disks: [disk] });
}

/** The vault of a world, opened in this process, with threads that stay until it is disposed of. */
async function openWorld(world: CliWorld) {
  const store = await openFileStore(world.at("vault"));
  const secret = toKeyFileSecret(await readFile(world.at("key")));
  const { keys } = await openVaultFiles(store, secret);
  const vault = await openTestVault({ store, keys });
  const threads = vault.openDisk({ root: undefined, sizeBytes: 0 });
  return {
    store,
    keys,
    vault,
    async [Symbol.asyncDispose](): Promise<void> {
      await threads[Symbol.asyncDispose]();
      await vault[Symbol.asyncDispose]();
    },
  };
}

/** Counts what happens in a folder: a measure of how far a process is that no load changes. */
class FolderEvents implements Disposable {
  readonly #watcher: FSWatcher;
  #count = 0;
  #onEvent: () => void = () => {};

  constructor(folder: string) {
    this.#watcher = watch(folder, { recursive: true }, () => {
      this.#count++;
      this.#onEvent();
    });
  }

  get count(): number {
    return this.#count;
  }

  /** Resolves when `count` events have come since, or the process has ended. */
  async next(count: number, end: Promise<unknown>): Promise<void> {
    const target = this.#count + count;
    const reached = new Promise<void>((resolve) => {
      this.#onEvent = () => {
        if (this.#count >= target) resolve();
      };
    });
    await Promise.race([reached, end]);
    for (let turns = random.integer(0, 200); turns > 0; turns--) await new Promise(setImmediate);
  }

  [Symbol.dispose](): void {
    this.#watcher.close();
  }
}

/** Runs a backup to its end; returns how many events of the store it made. */
async function runWhole(subject: Subject): Promise<number> {
  using events = new FolderEvents(subject.world.at("vault"));
  const { end } = await subject.startBackup();
  const result = await end;
  assert.equal(result.code, 0, result.stderr);
  subject.note(result);
  await subject.check();
  return events.count;
}

/** Sends a signal after a random part of the events of a whole run; whether it was in time. */
async function strike(
  child: ChildProcess,
  signal: NodeJS.Signals,
  run: { readonly folder: string; readonly events: number; readonly end: Promise<unknown> },
): Promise<boolean> {
  using events = new FolderEvents(run.folder);
  await events.next(random.integer(1, Math.max(1, run.events - 1)), run.end);
  return child.kill(signal);
}

test("cli kill: backups killed at any moment lose nothing that was acknowledged", async () => {
  await using world = await createWorld();
  const subject = new Subject(world, "a.raw");
  await runWhole(subject);
  const events = await runWhole(subject);
  const folder = world.at("vault");
  let killed = 0;
  for (let round = 0; round < rounds; round++) {
    const { child, end } = await subject.startBackup();
    if (await strike(child, "SIGKILL", { folder, events, end })) killed++;
    subject.note(await end);
    await subject.check();
  }
  await runWhole(subject);
  await subject.checkAll();
  const { acknowledged, points } = subject;
  console.log(`${killed} backups killed, ${acknowledged} acknowledged, ${points} points, all read`);
  assert.ok(killed > 0);
});

test("cli kill: a backup that was stopped while others worked goes on where it was", async () => {
  await using world = await createWorld();
  const [stopped, other] = [new Subject(world, "a.raw"), new Subject(world, "b.raw")];
  await runWhole(stopped);
  const events = await runWhole(stopped);
  const folder = world.at("vault");
  let stops = 0;
  for (let round = 0; round < Math.ceil(rounds / 2); round++) {
    const { child, end } = await stopped.startBackup();
    if (await strike(child, "SIGSTOP", { folder, events, end })) stops++;
    try {
      await runWhole(other);
    } finally {
      child.kill("SIGCONT");
    }
    const result = await end;
    assert.equal(result.code, 0, result.stderr);
    stopped.note(result);
    await stopped.check();
  }
  await stopped.checkAll();
  await other.checkAll();
  console.log(`${stops} backups stopped, ${stopped.points + other.points} points, all read`);
  assert.ok(stops > 0);
});

test("cli kill: restores killed at any moment leave a whole target or the one before", async () => {
  await using world = await createWorld();
  const subject = new Subject(world, "a.raw");
  await runWhole(subject);
  const restore = ["image", "restore", "a.raw", "to/out.raw", "--overwrite", ...world.vault];
  const folder = world.at("to");
  const target = world.at("to/out.raw");
  await mkdir(folder);
  const before = random.bytes(subject.disk.sizeBytes);
  await writeFile(target, before);
  using whole = new FolderEvents(folder);
  await world.ok(restore);
  const events = whole.count;
  let finished = 0;
  let killed = 0;
  for (let round = 0; round < rounds; round++) {
    await writeFile(target, before);
    const child = world.start(restore);
    const end = collect(child);
    if (await strike(child, "SIGKILL", { folder, events, end })) killed++;
    const { code } = await end;
    const found = await readFile(target);
    const isNew = bytesEqual(found, subject.disk.bytes());
    assert.ok(isNew || bytesEqual(found, before), "the target is whole or as it was");
    assert.ok(isNew || code !== 0);
    if (isNew) finished++;
  }
  await world.ok(restore);
  assert.ok(bytesEqual(await readFile(target), subject.disk.bytes()));
  const left = (await readdir(folder)).length - 1;
  console.log(`${killed} restores killed, ${finished} had finished, ${left} parts left`);
  assert.ok(killed > 0);
});
