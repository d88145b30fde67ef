// Goal: what a killed restore left in a folder is removed by the next restore to it, and nothing that a
// live one, somebody else, or another machine may still be writing.
import assert from "node:assert/strict";
import { readdir, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { present } from "#base/assert.ts";
import { systemRandom } from "#base/random.ts";
import {
  createPartName,
  foreignPartAgeMs,
  type PartWriter,
  readPartWriter,
} from "#drivers/process/part-name.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { TargetFile } from "./target-file.ts";

test("target file: the next one in a folder removes parts of writers that have ended", async () => {
  await using folder = await createTempFolder();
  const self = present(await readPartWriter(), "/proc is mounted");
  const part = async (writer: PartWriter, ageMs = 0): Promise<string> => {
    const name = `.disk.raw.${createPartName(writer, systemRandom)}.kluis-part`;
    await writeFile(join(folder.path, name), "half a disk");
    const time = new Date(systemClock.nowMs() - ageMs);
    await utimes(join(folder.path, name), time, time);
    return name;
  };
  const other = "0".repeat(16);
  const dead = await part({ ...self, pid: 2 ** 22 + 1 });
  const replaced = await part({ ...self, startTicks: self.startTicks - 1 });
  const old = await part({ ...self, scope: other }, foreignPartAgeMs + 60_000);
  const kept = [
    await part(self, foreignPartAgeMs * 2),
    await part({ ...self, pid: 1, scope: other }, foreignPartAgeMs - 60_000),
    ".disk.raw.0123456789abcdef.kluis-part",
    `${createPartName({ ...self, pid: 2 ** 22 + 1 }, systemRandom)}.kluis-part`,
  ];
  for (const name of kept.slice(2)) await writeFile(join(folder.path, name), "somebody's");
  const target = await TargetFile.plan(join(folder.path, "disk.raw"), false);
  const left = await readdir(folder.path);
  assert.deepEqual(left.sort(), kept.sort());
  for (const name of [dead, replaced, old]) assert.ok(!left.includes(name));
  await writeFile(target.tempPath, "another disk");
  await TargetFile.plan(join(folder.path, "other.raw"), false);
  await target.commit();
  assert.deepEqual((await readdir(folder.path)).sort(), [...kept, "disk.raw"].sort());
});

test("target file: a long name, of any letters, leaves room for the temporary one", async () => {
  await using folder = await createTempFolder();
  for (const name of ["x".repeat(200), "\u{1f40b}".repeat(50), "\u00e9".repeat(100)]) {
    const target = await TargetFile.plan(join(folder.path, name), false);
    await writeFile(target.tempPath, "a disk");
    await target.commit();
  }
  assert.equal((await readdir(folder.path)).length, 3);
});
