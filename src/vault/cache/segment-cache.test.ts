// Goal: the cache folder belongs to one user, holds whole files only, and is swept of what nobody
// uses; pages in memory are those that were read.
// Method: real folders with wrong modes, owners and leftovers; a page cache under random reads.
import assert from "node:assert/strict";
import { chmod, chown, mkdir, readdir, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { toHex } from "#base/bytes.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { cachePageBytes } from "./cache-page.ts";
import { PageCache } from "./page-cache.ts";
import { SegmentCache } from "./segment-cache.ts";

test("segment cache: closes a folder to others, and leaves one that is not ours alone", async () => {
  await using folder = await createTempFolder();
  const random = createSeededRandom("segment cache modes");
  const open = join(folder.path, "open");
  await mkdir(open, { mode: 0o777 });
  await chmod(open, 0o777);
  const cache = SegmentCache.open({ cacheDirectory: open, random });
  assert.equal((await stat(open)).mode & 0o777, 0o700);
  const name = random.bytes(32);
  const page = random.bytes(cachePageBytes);
  await cache.write(name, page);
  assert.equal((await stat(join(open, toHex(name)))).mode & 0o777, 0o600);
  const target = new Uint8Array(cachePageBytes);
  cache.find(name)?.readPages(target, 0);
  assert.deepEqual(target, page);
  cache.close();

  if (process.getuid?.() !== 0) return;
  const foreign = join(folder.path, "foreign");
  await mkdir(foreign);
  await chown(foreign, 65_534, 65_534);
  const other = SegmentCache.open({ cacheDirectory: foreign, random });
  assert.equal(other.directory, undefined);
  assert.match(other.problem ?? "", /belongs to another user/);
  assert.equal((await stat(foreign)).mode & 0o777, 0o755, "its mode is not touched");
});

test("segment cache: sweeps old files that are not wanted, and nothing else", async () => {
  await using folder = await createTempFolder();
  const random = createSeededRandom("segment cache sweep");
  const [wanted, stale, fresh] = [0, 1, 2].map(() => toHex(random.bytes(32))) as [
    string,
    string,
    string,
  ];
  const names = [wanted, stale, fresh, "tmp-old", "tmp-new", "table", "notes.txt"];
  for (const name of names) await writeFile(join(folder.path, name), "");
  const nowMs = 1_800_000_000_000;
  const weekMs = 7 * 24 * 3_600_000;
  for (const [name, ageMs] of names.map((name) => [name, weekMs + 1000] as const)) {
    const isFresh = name === fresh || name === "tmp-new";
    const at = new Date(nowMs - (isFresh ? weekMs - 1000 : ageMs));
    await utimes(join(folder.path, name), at, at);
  }
  const cache = SegmentCache.open({ cacheDirectory: folder.path, random });
  await cache.removeStale((segment) => segment === wanted, nowMs);
  const left = names.filter((name) => name !== stale && name !== "tmp-old");
  assert.deepEqual((await readdir(folder.path)).sort(), left.sort());
  assert.equal(cache.problem, undefined);
});

test("page cache: gives the page of its key, and keeps none that did not fill", () => {
  const random = createSeededRandom("page cache");
  const cache = new PageCache(64 * cachePageBytes);
  const fill = (key: number) => (page: Uint8Array) => {
    new DataView(page.buffer, page.byteOffset).setUint32(0, key, true);
  };
  for (let step = 0; step < 20_000; step++) {
    const key = random.integer(0, 200);
    const here = cache.find(key);
    if (here >= 0 || random.chance(0.9)) {
      const offset = here >= 0 ? here : cache.read(key, fill(key));
      assert.equal(cache.words[offset / 4], key);
      assert.equal(cache.find(key), offset);
      continue;
    }
    const before = random.integer(0, 200);
    cache.find(before);
    assert.throws(() => {
      cache.read(key, (page) => {
        page.fill(0xff);
        throw new Error("cannot read");
      });
    });
    for (const other of [key, before, random.integer(0, 200)]) {
      const offset = cache.find(other);
      assert.ok(offset < 0 || cache.words[offset / 4] === other, "no page that did not fill");
    }
  }
  assert.ok(cache.reads > 1000);
});
