/**
 * Goal: with the store and the recovery key alone, everything can be listed, verified and restored.
 * Method: an empty environment that has neither home nor cache nor the host's files.
 */
import assert from "node:assert/strict";
import { cp, mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { test } from "node:test";

import type { PointsOutput, RestoreOutput, VerifyOutput } from "#contract/cli-output.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { mustRun, runQemuIo, writeRawImage } from "../integration/disk-images.ts";
import { createWorld } from "./cli.ts";

const MiB = 1024 * 1024;

test("cli rescue: restores every point from the store and the recovery key alone", async () => {
  await using world = await createWorld();
  const disk = new MemoryDisk(8 * MiB);
  disk.write(MiB, createPrng(testSeed()).bytes(2 * MiB));
  await writeRawImage(world.at("a.raw"), disk);
  await world.backup("a.raw");
  await cp(world.at("a.raw"), world.at("a1.raw"));
  await runQemuIo(world.at("a.raw"), "raw", ["write -P 1 5M 8k"]);
  await world.backup("a.raw");
  const key = await readFile(world.recoveryKeyFile, "utf8");

  await using desert = await createWorld({ withVault: false });
  await rename(world.at("vault"), desert.at("found"));
  const store = ["--store", "found", "--recovery-key-file", "-"];
  const call = { stdin: key, variables: { HOME: "/nonexistent" } };
  const listing = await desert.json<PointsOutput>(["rescue", "list", ...store], call);
  assert.equal(listing.points.length, 2);
  const report = await desert.json<VerifyOutput>(["rescue", "verify", ...store], call);
  assert.equal(report.verdict, "sound");
  const item = listing.points[0]?.itemId ?? "";
  for (const [at, image] of [
    [0, "a1.raw"],
    [1, "a.raw"],
  ] as const) {
    const folder = desert.at(`out${at}`);
    await mkdir(folder);
    const point = ["--point", listing.points[at]?.id ?? "", "--directory", folder];
    const words = ["rescue", "restore", item, ...store, ...point];
    const { disks } = await desert.json<RestoreOutput>(words, call);
    assert.deepEqual(await readdir(folder), ["disk.raw"]);
    await mustRun("qemu-img", ["compare", world.at(image), disks[0]?.target ?? ""]);
  }
  assert.deepEqual((await readdir(desert.path)).sort(), ["found", "out0", "out1"]);
});

test("cli rescue: an index that is lost is built again from nothing but the vault", async () => {
  await using world = await createWorld();
  await writeRawImage(world.at("a.raw"), new MemoryDisk(2 * MiB));
  await world.backup("a.raw");
  await rm(world.at(".cache"), { recursive: true, force: true });
  const key = ["--recovery-key-file", world.recoveryKeyFile];
  const listing = await world.json<PointsOutput>(["rescue", "list", "--store", "vault", ...key]);
  assert.equal(listing.points.length, 1);
});

test("cli rescue: a passphrase of any script, a key file and a recovery key open the same vault", async () => {
  await using world = await createWorld();
  const passphrase = { stdin: "pässwörd – 密码\n" };
  const add = ["vault", "key", "add", ...world.vault, "--new-passphrase-file", "-"];
  await world.ok(add, passphrase);
  const store = ["image", "list", "--store", "vault"];
  await world.ok([...store, "--passphrase-file", "-"], passphrase);
  await world.ok(store, { variables: { KLUIS_PASSPHRASE: "pässwörd – 密码" } });
  await world.ok([...store, "--recovery-key-file", world.recoveryKeyFile]);
  const keys = await world.json<{ keys: { type: string }[] }>([
    "vault",
    "key",
    "list",
    "--store",
    "vault",
  ]);
  assert.deepEqual(keys.keys.map(({ type }) => type).sort(), [
    "key-file",
    "passphrase",
    "recovery",
  ]);
});
