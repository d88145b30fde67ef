/**
 * Goal: one holder at a time, and none that is dead keeps others out. Method: real lock files, dead
 * holders made of the identity of a process that has ended, many takers at once.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { readProcessIdentity } from "#drivers/process/process-identity.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { acquireVmLock, VmLock, type LockHolder, type LockWait } from "./vm-lock.ts";

const refuse: LockWait = { timeoutMs: 0, clock: systemClock, mayWaitFor: () => false };
const wait: LockWait = { timeoutMs: 20_000, clock: systemClock, mayWaitFor: () => true };

async function deadHolder(token: string): Promise<LockHolder> {
  const own = await readProcessIdentity(process.pid);
  assert.ok(own !== undefined);
  // Our own pid with another start: a process that had the pid before us.
  return { owner: { ...own, startTicks: own.startTicks - 1 }, kind: "snapshot", token };
}

test("VM lock: a second taker is told who holds it and what for", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "lock");
  {
    await using _ = await acquireVmLock(path, "snapshot", refuse);
    await assert.rejects(acquireVmLock(path, "merge", refuse), (error) => {
      assert.ok(isKluisError(error, "Busy"));
      assert.match(error.message, new RegExp(`${String(process.pid)} takes a snapshot`));
      return true;
    });
  }
  await using again = await acquireVmLock(path, "merge", refuse);
  assert.ok(again instanceof VmLock);
});

test("VM lock: waits for whom it may, until the holder leaves", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "lock");
  const first = await acquireVmLock(path, "read", refuse);
  const kinds: string[] = [];
  const second = acquireVmLock(path, "snapshot", {
    ...wait,
    mayWaitFor: async (holder) => {
      kinds.push(holder.kind);
      if (kinds.length === 2) await first[Symbol.asyncDispose]();
      return true;
    },
  });
  await using _ = await second;
  assert.deepEqual(kinds, ["read", "read"]);
});

test("VM lock: a dead holder's lock is taken by exactly one of many at a time", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "lock");
  let taken = 0;
  for (let round = 0; round < 150; round += 1) {
    await writeFile(path, JSON.stringify(await deadHolder(`dead-${String(round)}`)));
    let holders = 0;
    const takers = Array.from({ length: 10 }, async () => {
      const lock = await acquireVmLock(path, "snapshot", refuse);
      taken += 1;
      holders += 1;
      assert.equal(holders, 1, "nobody else holds it");
      await new Promise(setImmediate);
      assert.equal(JSON.parse(await readFile(path, "utf8")).token, lock.holder.token);
      holders -= 1;
      await lock[Symbol.asyncDispose]();
    });
    for (const outcome of await Promise.allSettled(takers)) {
      if (outcome.status === "rejected") assert.ok(isKluisError(outcome.reason, "Busy"));
    }
  }
  assert.ok(taken >= 100, `${String(taken)} takers of 1500 had it`);
  assert.deepEqual(await readdir(folder.path), []);
});

test("VM lock: a taker that died while it broke a lock does not keep others out", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "lock");
  await writeFile(path, JSON.stringify(await deadHolder("one")));
  await writeFile(`${path}.one`, JSON.stringify(await deadHolder("two")));
  await writeFile(`${path}.one.two`, JSON.stringify(await deadHolder("three")));
  await using _ = await acquireVmLock(path, "snapshot", refuse);
  await assert.rejects(acquireVmLock(path, "snapshot", refuse));
});

test("VM lock: a process that was killed holds no lock", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "lock");
  const script = `
    import { acquireVmLock } from "./vm-lock.ts";
    import { systemClock } from "#base/clock.ts";
    const wait = { timeoutMs: 0, clock: systemClock, mayWaitFor: () => false };
    await acquireVmLock(${JSON.stringify(path)}, "snapshot", wait);
    process.kill(process.pid, "SIGKILL");`;
  const cwd = new URL(".", import.meta.url).pathname;
  assert.throws(() => {
    execFileSync(process.execPath, ["--input-type=module", "--eval", script], { cwd });
  });
  assert.deepEqual(await readdir(folder.path), ["lock"]);
  await using _ = await acquireVmLock(path, "snapshot", refuse);
});

test("VM lock: a file that is none is not taken away", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "lock");
  await writeFile(path, "{}");
  await assert.rejects(acquireVmLock(path, "snapshot", refuse), (error) =>
    isKluisError(error, "Busy"),
  );
});
