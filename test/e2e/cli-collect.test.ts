/**
 * Goal: points that are deleted or pruned on the command line are gone at once, a collection frees
 * their space, and what stays restores. Method: the real command on a real image.
 */
import assert from "node:assert/strict";
import { readFile, rm } from "node:fs/promises";
import { test } from "node:test";

import type { CollectionOutput, DeletedOutput, PruneOutput } from "#contract/cli-output.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { writeRawImage } from "../integration/disk-images.ts";
import { assertFailure, createWorld } from "./cli.ts";

const MiB = 1024 * 1024;

test("cli collect: deletes, prunes and collects; what stays restores", async () => {
  await using world = await createWorld();
  const prng = createPrng(testSeed());
  const disk = new MemoryDisk(4 * MiB);
  const ids: string[] = [];
  for (let round = 0; round < 4; round++) {
    disk.write((round % 2) * MiB, prng.bytes(MiB));
    await rm(world.at("a.raw"), { force: true });
    await writeRawImage(world.at("a.raw"), disk);
    ids.push((await world.backup("a.raw")).point.id);
  }
  const [first = "", second = ""] = ids;
  const item = ["--item", "a.raw"];
  const deletion = ["image", "delete", ...world.vault, ...item, "--point", first];
  const deleted = await world.json<DeletedOutput>(deletion);
  assert.equal(deleted.id, first);
  assertFailure(await world.run(deletion), "RecoveryPointNotFound", /has none of that id/);
  const prune = ["vault", "prune", ...world.vault, "--keep-last", "2"];
  assertFailure(
    await world.run(prune.slice(0, -2)),
    "ArgumentInvalid",
    /no rule says what to keep/,
  );
  const planned = await world.json<PruneOutput>([...prune, "--dry-run"]);
  assert.equal(planned.points.length, 3);
  assert.equal((await world.points()).points.length, 3);
  const pruned = await world.json<PruneOutput>(prune);
  const gone = pruned.points.flatMap(({ id, keptBy }) => (keptBy.length === 0 ? [id] : []));
  assert.deepEqual(gone, [second]);
  assert.deepEqual(
    (await world.points()).points.map(({ id }) => id),
    ids.slice(2),
  );
  const collect = ["vault", "collect", ...world.vault, "--max-unused", "0"];
  const report = await world.json<CollectionOutput>(collect);
  assert.equal(report.end, "done");
  assert.ok(report.garbageBytes + report.repackedBytes > MiB / 2, JSON.stringify(report));
  const again = await world.ok(collect);
  assert.match(again.stdout, /^Nothing to collect/);
  await world.ok(["image", "restore", "a.raw", "back.raw", ...world.vault]);
  assert.deepEqual(await readFile(world.at("back.raw")), await readFile(world.at("a.raw")));
  await world.ok(["image", "verify", ...world.vault]);
});

test("cli collect: a pruning that collects frees the space at once", async () => {
  await using world = await createWorld();
  const disk = new MemoryDisk(4 * MiB);
  const prng = createPrng(testSeed());
  for (let round = 0; round < 3; round++) {
    disk.write(0, prng.bytes(MiB));
    await rm(world.at("a.raw"), { force: true });
    await writeRawImage(world.at("a.raw"), disk);
    await world.backup("a.raw");
  }
  const prune = ["vault", "prune", ...world.vault, "--keep-last", "1", "--collect"];
  assertFailure(await world.run([...prune, "--dry-run"]), "ArgumentInvalid", /--dry-run/);
  const { points, collection } = await world.json<PruneOutput>([...prune, "--max-unused", "0"]);
  assert.deepEqual(
    points.map(({ keptBy }) => keptBy.length > 0),
    [true, false, false],
  );
  assert.equal(collection?.end, "done");
  assert.ok(collection.garbageBytes + collection.repackedBytes > MiB, JSON.stringify(collection));
  assert.match(
    (await world.ok(prune)).stdout,
    /Deleted 0 of 1 recovery points.\nNothing to collect/,
  );
  await world.ok(["image", "restore", "a.raw", "back.raw", ...world.vault]);
  assert.deepEqual(await readFile(world.at("back.raw")), await readFile(world.at("a.raw")));
});
