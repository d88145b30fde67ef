/**
 * Goal: a second store keeps a vault alive: it follows, tells how far it is behind, restores without the
 * first one, and takes over. Method: the real CLI as a process, folders as stores, and the first
 * store moved away where the second has to do.
 */
import assert from "node:assert/strict";
import { cp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { test } from "node:test";

import type {
  BackupOutput,
  CopyOutput,
  PointsOutput,
  ScrubOutput,
  StoreVerifyOutput,
  VaultHealedOutput,
  VaultLagOutput,
  VerifyOutput,
} from "#contract/cli-output.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { mustRun, runQemuIo, writeRawImage } from "../integration/disk-images.ts";
import { assertFailure, createWorld } from "./cli.ts";

const MiB = 1024 * 1024;

test("cli replicate: the secondary follows, restores without the primary, and takes over", async () => {
  await using world = await createWorld();
  const disk = new MemoryDisk(4 * MiB);
  disk.write(MiB, createPrng(testSeed()).bytes(MiB));
  await writeRawImage(world.at("a.raw"), disk);
  await world.backup("a.raw");
  await cp(world.at("a.raw"), world.at("a1.raw"));
  const key = ["--key-file", world.at("key")];
  const pair = ["--store", "vault", "--secondary", "second"];
  const first = await world.json<CopyOutput>(["vault", "replicate", ...pair, ...key]);
  assert.deepEqual([first.points, first.lag.bytes, first.isSecondary], [1, 0, true]);
  const keyless = await world.json<StoreVerifyOutput>(["vault", "verify", "--store", "second"]);
  assert.deepEqual([keyless.verdict, keyless.objectsUnnamed], ["sound", 0]);
  const scrub = ["vault", "scrub", "--store", "second", "--depth", "full", ...key];
  const scrubbed = await world.json<ScrubOutput>(scrub);
  assert.deepEqual([scrubbed.verdict, scrubbed.neverChecked], ["sound", 0]);
  assert.ok(scrubbed.blocksChecked > 0);

  await runQemuIo(world.at("a.raw"), "raw", ["write -P 1 2M 8k"]);
  await world.backup("a.raw");
  const { lag } = await world.json<VaultLagOutput>(["vault", "lag", ...pair]);
  assert.ok(lag.points === 1 && lag.bytes > 0 && lag.seconds > 0, JSON.stringify(lag));
  const refused = await world.run(["image", "backup", "a.raw", "--store", "second", ...key]);
  assertFailure(refused, "StoreIsSecondary", /it is a secondary/);

  await rename(world.at("vault"), world.at("lost"));
  const from = [...pair, "--from", "secondary", ...key];
  await world.json(["image", "restore", "a.raw", "back.raw", ...from]);
  await mustRun("qemu-img", ["compare", world.at("a1.raw"), world.at("back.raw")]);

  await world.json(["vault", "promote", "--store", "second"]);
  const words = ["image", "backup", "a.raw", "--store", "second", ...key];
  const next = await world.json<BackupOutput>(words);
  assert.equal(next.point.disks[0]?.tracking, "checksum");
  await rename(world.at("lost"), world.at("vault"));
  const refusedAgain = await world.run(["vault", "replicate", ...pair, ...key]);
  assertFailure(refusedAgain, "StoreNotEmpty", /there is one/);
});

test("cli replicate: --prune takes out what the primary has deleted, and says so", async () => {
  await using world = await createWorld();
  const disk = new MemoryDisk(4 * MiB);
  disk.write(0, createPrng(testSeed()).bytes(MiB));
  await writeRawImage(world.at("a.raw"), disk);
  const ids: string[] = [];
  for (let point = 0; point < 3; point++) {
    ids.push((await world.backup("a.raw", ["--item", "a"])).point.id);
    await runQemuIo(world.at("a.raw"), "raw", [`write -P ${point + 1} 2M 64k`]);
  }
  const key = ["--key-file", world.at("key")];
  const replicate = ["vault", "replicate", "--store", "vault", "--secondary", "second", ...key];
  assert.equal((await world.json<CopyOutput>(replicate)).pruning, undefined);
  for (const id of ids.slice(0, 2)) {
    await world.ok(["image", "delete", ...world.vault, "--item", "a", "--point", id]);
  }
  const refused = await world.run([...replicate, "--prune"]);
  assertFailure(refused, "CollectionRefused", /2 of its 3 recovery points would go/);
  const meant = await world.json<CopyOutput>([...replicate, "--prune", "--allow-mass-deletion"]);
  assert.deepEqual([meant.pruning?.pointsDeleted, meant.pruning?.pointsUnexplained], [2, 0]);
  const { points } = await world.json<PointsOutput>(["image", "list", "--store", "second", ...key]);
  assert.deepEqual(
    points.map(({ id }) => id),
    ids.slice(2),
  );
  const plain = await world.run(["vault", "collect", "--store", "second", ...key]);
  assertFailure(plain, "StoreIsSecondary", /it is a secondary/);
});

test("cli rescue copy: copies everything, or one point, with the recovery key alone", async () => {
  await using world = await createWorld();
  const disk = new MemoryDisk(4 * MiB);
  disk.write(MiB, createPrng(testSeed() + 1).bytes(MiB));
  await writeRawImage(world.at("a.raw"), disk);
  await world.backup("a.raw");
  await runQemuIo(world.at("a.raw"), "raw", ["write -P 1 2M 8k"]);
  await world.backup("a.raw");
  const stdin = await readFile(world.recoveryKeyFile, "utf8");
  const call = { stdin, variables: { HOME: "/nonexistent" } };
  const key = ["--recovery-key-file", "-"];
  const source = ["rescue", "copy", "--store", "vault", ...key];
  const listing = await world.json<PointsOutput>(
    ["rescue", "list", "--store", "vault", ...key],
    call,
  );
  const last = listing.points[1]?.id ?? "";

  const whole = await world.json<CopyOutput>([...source, "--to", "all"], call);
  const one = await world.json<CopyOutput>([...source, "--to", "one", "--point", last], call);
  assert.deepEqual([whole.points, whole.isSecondary, one.points], [2, false, 1]);
  for (const [place, points] of [
    ["all", 2],
    ["one", 1],
  ] as const) {
    const words = ["rescue", "verify", "--store", place, ...key];
    const report = await world.json<VerifyOutput>(words, call);
    assert.deepEqual([report.verdict, report.points.length], ["sound", points]);
    const restore = ["rescue", "restore", listing.points[0]?.itemId ?? "", "--store", place];
    await mustRun("mkdir", [world.at(`out-${place}`)]);
    await world.json([...restore, "--directory", `out-${place}`, ...key], call);
    const restored = world.at(`out-${place}/disk.raw`);
    await mustRun("qemu-img", ["compare", world.at("a.raw"), restored]);
  }
  const again = await world.run([...source, "--to", "all"], call);
  assertFailure(again, "StoreNotEmpty", /there is one/);
});

test("cli heal: a damaged vault is healed from its secondary", async () => {
  await using world = await createWorld();
  const disk = new MemoryDisk(2 * MiB);
  disk.write(0, createPrng(testSeed() + 2).bytes(MiB));
  await writeRawImage(world.at("a.raw"), disk);
  await world.backup("a.raw");
  const key = ["--key-file", world.at("key")];
  await world.ok(["vault", "replicate", "--store", "vault", "--secondary", "second", ...key]);
  const packs = await readdir(world.at("vault/packs"), { recursive: true });
  const pack = world.at(`vault/packs/${packs.find((name) => name.length > 64) ?? ""}`);
  const bytes = await readFile(pack);
  bytes[1000] = (bytes[1000] ?? 0) ^ 1;
  await rm(pack);
  await writeFile(pack, bytes);
  const heal = ["vault", "heal", "--store", "vault", "--copy", "second", ...key];
  const report = await world.json<VaultHealedOutput>(heal);
  assert.deepEqual([report.healed.length, report.unhealed], [1, []]);
  const verified = await world.json<VerifyOutput>(["image", "verify", ...world.vault]);
  assert.equal(verified.verdict, "sound");
});
