/**
 * Goal: a host notices that a store was set back to an older state, says so, refuses what would make it
 * worse and never a restore, and goes on when it is told that this was meant.
 * Method: the real command; the folder of a vault is replaced by a copy of an earlier day.
 */
import assert from "node:assert/strict";
import { cp, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { test } from "node:test";

import type {
  BackupOutput,
  StoreVerifyOutput,
  VaultAcceptedOutput,
  VerifyOutput,
} from "#contract/cli-output.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { writeRawImage } from "../integration/disk-images.ts";
import { assertFailure, type CliWorld, createWorld } from "./cli.ts";

const damagedExit = 14;
const warning =
  /^Warning: the store .* is behind what this host has seen .*`kluis vault accept`\n$/;

async function setBack(world: CliWorld): Promise<BackupOutput> {
  const disk = new MemoryDisk(256 * 1024);
  disk.write(0, createPrng(testSeed()).bytes(9000));
  await writeRawImage(world.at("a.raw"), disk);
  const first = await world.backup("a.raw");
  await cp(world.at("vault"), world.at("yesterday"), { recursive: true });
  disk.write(8192, createPrng(testSeed() + 1).bytes(500));
  await writeRawImage(world.at("a.raw"), disk);
  await world.backup("a.raw");
  await rename(world.at("vault"), world.at("today"));
  await rename(world.at("yesterday"), world.at("vault"));
  return first;
}

test("cli set back: is told by every command, refused where something is removed, and accepted", async () => {
  await using world = await createWorld();
  const { vault } = world;
  const first = await setBack(world);
  const id = first.point.id;

  const words = ["image", "restore", "a.raw", "b.raw", ...vault];
  const restored = await world.ok(words);
  assert.match(restored.stderr, warning);
  const rescue = ["--store", world.at("vault"), "--recovery-key-file", world.recoveryKeyFile];
  const list = await world.ok(["rescue", "list", ...rescue]);
  assert.equal(list.stderr, "");

  for (const refused of [
    ["vault", "collect", ...vault],
    ["image", "delete", "--item", world.at("a.raw"), "--point", id, ...vault],
    ["vault", "key", "rotate", ...vault],
  ]) {
    assertFailure(await world.run(refused), "StoreSetBack", /has seen .*inventory\//);
  }

  const keyless = await world.run(["vault", "verify", "--store", "vault", "--output", "json"]);
  assert.equal(keyless.code, damagedExit);
  const objects = (JSON.parse(keyless.stdout) as StoreVerifyOutput).badObjects;
  assert.ok(objects.length > 0 && objects.every(({ name }) => name.startsWith("inventory/")));
  const verified = await world.run(["image", "verify", ...vault, "--output", "json"]);
  assert.equal(verified.code, damagedExit);
  const report = JSON.parse(verified.stdout) as VerifyOutput;
  assert.deepEqual([report.verdict, report.pointsVerdict], ["damaged", "sound"]);

  const again = await world.ok(["image", "backup", "a.raw", ...vault, "--output", "json"]);
  assert.match(again.stderr, warning);
  const [told, ...others] = (JSON.parse(again.stdout) as BackupOutput).warnings;
  assert.deepEqual([`Warning: ${told}\n`, ...others], [again.stderr]);
  assert.match((await world.run(["image", "list", ...vault])).stderr, warning, "it stays behind");

  const accepted = await world.json<VaultAcceptedOutput>(["vault", "accept", ...vault]);
  assert.deepEqual(accepted.forgotten.toSorted(), objects.map(({ name }) => name).toSorted());
  assert.equal((await world.ok(["image", "list", ...vault])).stderr, "");
  await world.ok(["vault", "collect", ...vault]);
  await world.ok(["vault", "verify", "--store", "vault"]);
});

test("cli set back: a key change is remembered, and a memory that is damaged is a warning", async () => {
  await using world = await createWorld();
  const { vault } = world;
  await cp(world.at("vault"), world.at("old"), { recursive: true });
  await world.ok(["vault", "key", "rotate", ...vault]);
  await rename(world.at("vault"), world.at("new"));
  await rename(world.at("old"), world.at("vault"));
  const behind = await world.run(["vault", "key", "rotate", ...vault]);
  assertFailure(
    behind,
    "StoreSetBack",
    /ring\/[0-9a-f]+-00000002: .* newest in the store is number 1/,
  );

  const folder = world.at("state/vaults");
  const [subject = ""] = await readdir(folder);
  const [file = ""] = await readdir(`${folder}/${subject}`);
  const content = await readFile(`${folder}/${subject}/${file}`);
  await writeFile(`${folder}/${subject}/${file}`, content.subarray(0, 40));
  const list = await world.ok(["image", "list", ...vault]);
  assert.match(list.stderr, /^Warning: Cannot read a vault memory: it is not JSON\n$/);
  assert.equal((await world.ok(["image", "list", ...vault])).stderr, "");
});
