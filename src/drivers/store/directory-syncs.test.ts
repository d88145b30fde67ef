// Goal: an fsync is shared only by those who came before it began, and a failed one is never
// forgotten: the kernel reports a lost write once, and a second fsync would succeed.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { DirectorySyncs } from "./directory-syncs.ts";
import { systemFiles, type OpenFile } from "./file-system.ts";

test("directory syncs: who comes while one runs shares the next", async () => {
  await using folder = await createTempFolder();
  const syncs = new DirectorySyncs(systemFiles);
  const first = syncs.sync(folder.path);
  const second = syncs.sync(folder.path);
  const third = syncs.sync(folder.path);
  assert.notEqual(first, second);
  assert.equal(second, third);
  await first;
  const fourth = syncs.sync(folder.path);
  assert.notEqual(fourth, second, "the second has begun by now");
  await Promise.all([third, fourth]);
  const fifth = syncs.sync(folder.path);
  assert.notEqual(fifth, fourth);
  await fifth;
});

test("directory syncs: a folder that is missing fails its own callers only", async () => {
  await using folder = await createTempFolder();
  const syncs = new DirectorySyncs(systemFiles);
  const missing = `${folder.path}/missing`;
  const results = await Promise.allSettled([syncs.sync(missing), syncs.sync(missing)]);
  assert.ok(results.every((result) => result.status === "rejected"));
  syncs.assertHealthy();
  await syncs.sync(folder.path);
});

test("directory syncs: after an fsync has failed nothing is called durable any more", async () => {
  await using folder = await createTempFolder();
  const syncs = new DirectorySyncs(systemFiles);
  const lost = Object.assign(new Error("EIO: i/o error, fsync"), { code: "EIO", syscall: "fsync" });
  const broken = { sync: () => Promise.reject(lost) } as OpenFile;
  await assert.rejects(syncs.syncHandle(broken), lost);
  const isRefused = (error: unknown): boolean =>
    isKluisError(error, "StoreUnavailable") && /an earlier write may be lost/.test(error.message);
  assert.throws(() => {
    syncs.assertHealthy();
  }, isRefused);
  await assert.rejects(syncs.sync(folder.path), isRefused);
});
