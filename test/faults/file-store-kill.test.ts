// Goal: whatever moment a writer is killed at, each object it had promised is there and whole, no
// name stands for a part of one, and the store goes on.
// Method: kill -9 a process that puts objects as fast as it can, again and again, on one store.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";

import { toHex } from "#base/bytes.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { createTempFolder } from "#testing/temp-folder.ts";

const writer = join(import.meta.dirname, "store-writer.ts");
const rounds = 12;

/** Runs a writer until it has promised `acks` objects and `spins` turns more; returns its promises. */
async function runAndKill(root: string, acks: number, spins: number): Promise<string[]> {
  const args = [writer, "named", root, "1000000", "1500000"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const promised: string[] = [];
  const ended = once(child, "close");
  const enough = new Promise<void>((resolve) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      promised.push(line.slice("ack ".length));
      if (promised.length === acks) resolve();
    });
  });
  await Promise.race([enough, ended]);
  for (let spin = 0; spin < spins; spin++) await new Promise(setImmediate);
  child.kill("SIGKILL");
  const [, signal] = await ended;
  assert.equal(signal, "SIGKILL", "the writer was at work when it was killed");
  return promised;
}

/** Asserts that every object's name is the hash of its content; returns the names. */
async function readAll(store: ObjectStore): Promise<Set<string>> {
  const names = new Set<string>();
  for await (const { name } of store.list("")) {
    const digest = createHash("sha256")
      .update(await store.get(name))
      .digest();
    assert.ok(name.endsWith(`/${toHex(digest)}`), `object "${name}" is whole`);
    names.add(name);
  }
  return names;
}

test("file store: a writer killed at any moment leaves what it promised and nothing partial", async () => {
  await using folder = await createTempFolder();
  const root = `${folder.path}/store`;
  const random = createSeededRandom("kill");
  const promised: string[] = [];
  for (let round = 0; round < rounds; round++) {
    promised.push(...(await runAndKill(root, random.integer(1, 12), random.integer(0, 2000))));
  }
  const store = await openFileStore(root);
  const found = await readAll(store);
  for (const name of promised) assert.ok(found.has(name), `promised object "${name}" is there`);
  assert.ok(promised.length >= rounds);

  // What the dead left in tmp/ is taken away once it is old.
  const left = (await readdir(`${root}/tmp`)).length;
  await store.put("young", []);
  assert.equal((await readdir(`${root}/tmp`)).length, left);
  const later = new ManualClock(Date.now() + 2 * 60 * 60 * 1000);
  const swept = await openFileStore(root, { clock: later });
  await swept.put("old", []);
  assert.deepEqual(await readdir(`${root}/tmp`), []);
  console.log(`${rounds} kills, ${promised.length} promised, ${found.size} found, ${left} swept`);
});
