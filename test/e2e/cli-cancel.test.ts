/**
 * Goal: Ctrl-C leaves no half state: no recovery point, no target, and the next run works. Method:
 * signals in the middle of slow transfers.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { mustRun, writeRawImage } from "../integration/disk-images.ts";
import { startNbdkit } from "../integration/nbd-servers.ts";
import { type CliWorld, collect, createWorld } from "./cli.ts";

const MiB = 1024 * 1024;
const waitLimitMs = 60_000;

async function waitFor(condition: () => Promise<boolean> | boolean): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + waitLimitMs;
  while (!(await condition())) {
    assert.ok(systemClock.monotonicMs() < deadlineMs, "the condition came in time");
    await systemClock.sleep(5);
  }
}

async function createImage(world: CliWorld, sizeBytes: number): Promise<void> {
  const prng = createPrng(testSeed());
  const disk = new MemoryDisk(sizeBytes);
  const piece = prng.bytes(MiB);
  for (let at = 0; at < sizeBytes; at += MiB) {
    piece.set(prng.bytes(16), (at / MiB) % 1000);
    for (let page = 0; page < MiB; page += 4096) piece[page] = (piece[page] ?? 0) + 1 + at / MiB;
    disk.write(at, piece);
  }
  await writeRawImage(world.at("a.raw"), disk);
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  test(`cli cancel: ${signal} in a backup commits nothing, and the next run works`, async () => {
    await using world = await createWorld();
    await createImage(world, 64 * MiB);
    const uri = `nbd+unix:///?socket=${world.at("nbd")}`;
    const slow = ["--filter=delay", "file", world.at("a.raw"), "rdelay=150ms"];
    await using _ = await startNbdkit(world.at("nbd"), slow);
    const child = world.start(["image", "backup", uri, "--item", "db", ...world.vault]);
    const ended = collect(child);
    await waitFor(async () => (await readdir(world.at("vault"))).includes("packs"));
    child.kill(signal);
    // Ignored: what runs now cleans up.
    child.kill(signal);
    const result = await ended;
    assert.equal(result.code, 130, result.stderr);
    assert.match(result.stderr, /^Error: Cannot finish: cancelled by .* \(Cancelled\)$/m);
    assert.match(result.stderr, /What to do: Nothing was committed/);
    assert.equal(result.stdout, "");
    assert.deepEqual((await world.points()).points, []);
    await world.backup("a.raw", ["--item", "db"]);
    await world.ok(["image", "restore", "db", "b.raw", ...world.vault]);
    await mustRun("qemu-img", ["compare", world.at("a.raw"), world.at("b.raw")]);
  });
}

test("cli cancel: a signal in a restore leaves no target and no part of one", async () => {
  await using world = await createWorld();
  await createImage(world, 192 * MiB);
  await world.backup("a.raw");
  for (const target of ["b.raw", "b.qcow2"]) {
    const child = world.start(["image", "restore", "a.raw", target, ...world.vault]);
    const ended = collect(child);
    await waitFor(async () => (await readdir(world.path)).some((name) => name.includes("part")));
    child.kill("SIGINT");
    const result = await ended;
    assert.equal(result.code, 130, `${result.stderr}${result.stdout}`);
    assert.ok(!existsSync(world.at(target)));
    assert.ok(!(await readdir(world.path)).some((name) => name.includes("part")));
  }
});

test("cli cancel: a pipe that closes early does no harm", async () => {
  await using world = await createWorld();
  await createImage(world, MiB);
  await world.backup("a.raw");
  const shell = '"$@" | true; echo "${PIPESTATUS[0]}" >&2';
  const words = ["image", "list", ...world.vault];
  const { stderr } = await world.run(words, { behind: ["bash", "-c", shell, "-"] });
  assert.equal(stderr.trim(), "0");
});
