/**
 * Goal: an entry of the lab's cache is there complete or not at all, whoever builds it and whoever
 * died while building it. Method: real folders, real pids of processes that ended.
 */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, readdir, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { runTool } from "#drivers/process/run-tool.ts";
import { ensureEntry, entryName } from "./cache.ts";

interface Fixture extends AsyncDisposable {
  readonly root: string;
}

async function openRoot(): Promise<Fixture> {
  const root = await mkdtemp(join(tmpdir(), "kluis-lab-cache-"));
  return { root, [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }) };
}

function writeOne(directory: string): Promise<void> {
  return writeFile(join(directory, "one"), "1");
}

/** The pid of a process that has ended. */
async function endedPid(): Promise<number> {
  const { stdout } = await runTool("sh", ["-c", "echo $$"], { timeoutMs: 10_000 });
  return Number(stdout);
}

test("lab cache: builds an entry once for many callers at a time", async () => {
  await using fixture = await openRoot();
  let builds = 0;
  const build = async (directory: string): Promise<void> => {
    builds += 1;
    await writeOne(directory);
  };
  const calls = Array.from({ length: 5 }, () =>
    ensureEntry("thing", { a: 1 }, build, fixture.root),
  );
  const [first = "", ...others] = await Promise.all(calls);
  for (const other of others) assert.equal(other, first);
  assert.equal(builds, 1);
  assert.equal(await readFile(join(first, "one"), "utf8"), "1");
  assert.deepEqual(await readdir(fixture.root), [entryName("thing", { a: 1 })]);
});

test("lab cache: gives another recipe another entry", async () => {
  await using fixture = await openRoot();
  const first = await ensureEntry("thing", { a: 1 }, writeOne, fixture.root);
  const second = await ensureEntry("thing", { a: 2 }, writeOne, fixture.root);
  assert.notEqual(first, second);
});

test("lab cache: leaves nothing when a build fails, and the next one works", async () => {
  await using fixture = await openRoot();
  const fail = (): Promise<void> => Promise.reject(new RangeError("no"));
  await assert.rejects(ensureEntry("thing", {}, fail, fixture.root), RangeError);
  assert.deepEqual(await readdir(fixture.root), []);
  await ensureEntry("thing", {}, writeOne, fixture.root);
});

test("lab cache: takes the lock and the draft of a builder that died", async () => {
  await using fixture = await openRoot();
  const pid = await endedPid();
  const lock = join(fixture.root, `${entryName("thing", {})}.lock`);
  await mkdir(lock);
  const owner = { pid, startTicks: 1, bootId: "gone" };
  await writeFile(join(lock, "owner.json"), JSON.stringify(owner));
  await mkdir(join(fixture.root, `draft-${String(pid)}-abc`));
  await ensureEntry("thing", {}, writeOne, fixture.root);
  assert.deepEqual(await readdir(fixture.root), [entryName("thing", {})]);
});

test("lab cache: takes a lock whose builder died before it said who it was", async () => {
  await using fixture = await openRoot();
  const lock = join(fixture.root, `${entryName("thing", {})}.lock`);
  await mkdir(lock);
  await utimes(lock, 1000, 1000);
  await ensureEntry("thing", {}, writeOne, fixture.root);
  assert.deepEqual(await readdir(fixture.root), [entryName("thing", {})]);
});

test("lab cache: removes entries of the same kind that nobody used for long", async () => {
  await using fixture = await openRoot();
  const old = await ensureEntry("thing", { a: 1 }, writeOne, fixture.root);
  const other = await ensureEntry("thing-two", { a: 1 }, writeOne, fixture.root);
  const recent = await ensureEntry("thing", { a: 2 }, writeOne, fixture.root);
  await utimes(old, 1000, 1000);
  await utimes(other, 1000, 1000);
  const fresh = await ensureEntry("thing", { a: 3 }, writeOne, fixture.root);
  const left = (await readdir(fixture.root)).map((name) => join(fixture.root, name));
  assert.deepEqual(left.sort(), [other, recent, fresh].sort());
});
