// Goal: processes that share an index cache never mislead each other, whatever happens to its files
// or to one of them; a cache that is full or cannot be written costs nothing but the cache.
// Method: real processes on one folder that damage it as they go, some killed; a tmpfs that is full.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { testSeed } from "#testing/seed.ts";
import { createTempFolder } from "#testing/temp-folder.ts";

const run = promisify(execFile);
const user = join(import.meta.dirname, "index-user.ts");
const isRoot = process.getuid?.() === 0;

interface Report {
  readonly entries: number;
  readonly segmentBytes: number;
  readonly cacheProblem?: string;
}

function lastLine(stdout: string): Report {
  return JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "") as Report;
}

test("index cache: processes that share and damage it find every block", async () => {
  await using folder = await createTempFolder();
  const cache = join(folder.path, "cache");
  const seed = testSeed();
  const users = ["a", "b", "c"].map((label) =>
    run(process.execPath, [user, cache, folder.path, "6", `${seed}/${label}`, "2"]),
  );
  for (let kill = 0; kill < 4; kill++) {
    const victim = spawn(process.execPath, [user, cache, folder.path, "50", `${seed}`, "0"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = once(victim, "close");
    await Promise.race([once(victim.stdout, "data"), ended]);
    victim.kill("SIGKILL");
    assert.equal((await ended)[1], "SIGKILL", "it was at work when it was killed");
  }
  for (const { stdout } of await Promise.all(users)) {
    assert.equal(stdout.match(/^round$/gm)?.length, 6);
    assert.equal(lastLine(stdout).entries, 144_000);
  }
});

test("index cache: a full disk moves it to the temporary folder, and then to memory", async () => {
  await using folder = await createTempFolder();
  const namespace = isRoot ? ["-m"] : ["-U", "-r", "-m"];
  const inside = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" "$3" "$1" "$4" 2 seed 0';
  for (const temporary of ["spool", "absent"]) {
    const full = join(folder.path, "full");
    await mkdir(full, { recursive: true });
    await mkdir(join(folder.path, "spool"), { recursive: true });
    const shell = [full, process.execPath, user, join(folder.path, temporary)];
    const { stdout } = await run("unshare", [...namespace, "sh", "-c", inside, "sh", ...shell]);
    const report = lastLine(stdout);
    assert.equal(report.entries, 144_000);
    assert.match(report.cacheProblem ?? "", /ENOSPC/);
    assert.equal(report.segmentBytes > 2_000_000, temporary === "absent");
    assert.equal(report.segmentBytes === 0, temporary === "spool");
  }
});
