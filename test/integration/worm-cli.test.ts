// Goal: the command makes, uses and rescues a WORM vault on radosgw's COMPLIANCE mode; it refuses to
// delete what is locked, and to promise immutability where that has not been proven.
// Method: real processes; an attacker with the same credentials hides and overwrites every object of
// the locked bucket and wipes the other one.
import assert from "node:assert/strict";
import {
  DeleteObjectCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
} from "@aws-sdk/client-s3";
import { cp, mkdir } from "node:fs/promises";
import { after, before, test } from "node:test";

import type {
  BackupOutput,
  PointsOutput,
  RestoreOutput,
  VerifyOutput,
} from "#contract/cli-output.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { type Radosgw, startRadosgw } from "#testing/radosgw.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertFailure, type CliWorld, createWorld } from "../e2e/cli.ts";
import { mustRun, runQemuIo, writeRawImage } from "./disk-images.ts";

const mib = 1024 * 1024;
let gateway: Radosgw;

before(async () => {
  gateway = await startRadosgw();
  await gateway.createBucket("locked", "locked");
  await gateway.createBucket("control");
});
after(() => gateway[Symbol.asyncDispose]());

function variables(): Readonly<Record<string, string>> {
  const { accessKeyId, secretAccessKey } = gateway.credentials;
  return { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
}

function url(control: string): string {
  return `s3://locked/vm?endpoint=${gateway.endpoint}&control=${control}`;
}

/** Hides and overwrites all of the locked bucket, and wipes the control bucket. */
async function attack(): Promise<void> {
  const { client } = gateway;
  for (const Bucket of ["locked", "control"]) {
    const { Versions = [] } = await client.send(new ListObjectVersionsCommand({ Bucket }));
    assert.ok(Versions.length > 3);
    for (const { Key } of Versions) {
      if (Bucket === "locked") await client.send(new PutObjectCommand({ Bucket, Key, Body: "x" }));
      await client.send(new DeleteObjectCommand({ Bucket, Key }));
    }
  }
}

async function backUpTwice(world: CliWorld, vault: readonly string[]): Promise<void> {
  const call = { variables: variables() };
  const disk = new MemoryDisk(8 * mib);
  disk.write(0, createSeededRandom("worm cli").bytes(5 * mib));
  await writeRawImage(world.at("a.raw"), disk);
  const first = await world.json<BackupOutput>(["image", "backup", "a.raw", ...vault], call);
  await cp(world.at("a.raw"), world.at(`${first.point.id}.kept`));
  await runQemuIo(world.at("a.raw"), "raw", ["write -P 7 100k 4k", "write -z 2M 1M"]);
  const second = await world.json<BackupOutput>(["image", "backup", "a.raw", ...vault], call);
  assert.equal(second.point.basePointId, first.point.id);
  await cp(world.at("a.raw"), world.at(`${second.point.id}.kept`));
}

test("WORM vault: the command creates, uses, defends and rescues it", async () => {
  await using world = await createWorld({ withVault: false });
  const call = { variables: variables() };
  const vault = ["--store", url("s3://control/vm"), "--key-file", "key"];
  const create = [...vault, "--recovery-key-file", "recovery", "--immutability-days", "30"];
  await world.ok(["vault", "create", ...create], call);
  assertFailure(await world.run(["vault", "create", ...create], call), "StoreNotEmpty", /there is/);
  await backUpTwice(world, vault);
  const { points } = await world.json<PointsOutput>(["image", "list", ...vault], call);
  assert.equal(points.length, 2);
  const [point] = points;
  assert.ok(point !== undefined);
  const one = ["--item", "a.raw", "--point", point.id];
  const deleted = await world.run(["image", "delete", ...vault, ...one], call);
  assertFailure(deleted, "ObjectLocked", /is locked until 20/);
  const pruned = await world.run(["vault", "prune", ...vault, "--keep-last", "1"], call);
  assertFailure(pruned, "ObjectLocked", /is locked until 20/);
  await world.ok(["vault", "collect", ...vault], call);
  await world.ok(["vault", "key", "rotate", ...vault], call);

  await attack();
  // On the host itself every point is there, and the loss of the control place is told.
  const noticed = await world.ok(["image", "list", ...vault], call);
  for (const { id } of points) assert.ok(noticed.stdout.includes(id));
  assert.match(noticed.stderr, /is behind what this host has seen/);
  const recovery = ["--recovery-key-file", "recovery"];
  const copy = ["rescue", "copy", "--store", url("none"), ...recovery, "--to", world.at("copy")];
  await world.ok(copy, call);
  const copied = await world.json<PointsOutput>([
    "image",
    "list",
    "--store",
    "copy",
    "--key-file",
    "key",
  ]);
  assert.equal(copied.points.length, 2);
  for (const control of ["s3://control/vm", "none"]) {
    const store = ["--store", url(control), ...recovery];
    const listing = await world.json<PointsOutput>(["rescue", "list", ...store], call);
    assert.deepEqual(listing.points.map(({ id }) => id).sort(), points.map(({ id }) => id).sort());
    const report = await world.json<VerifyOutput>(["rescue", "verify", ...store], call);
    assert.equal(report.verdict, "sound");
    await world.ok(["rescue", "check", ...store], call);
    for (const { id, itemId } of points) {
      const folder = world.at(`${id}-${control.slice(0, 2)}`);
      await mkdir(folder);
      const words = ["rescue", "restore", itemId, ...store, "--point", id, "--directory", folder];
      const { disks } = await world.json<RestoreOutput>(words, call);
      await mustRun("qemu-img", ["compare", world.at(`${id}.kept`), disks[0]?.target ?? ""]);
    }
  }
});

test("WORM vault: immutability is refused where it has not been proven, or is asked for by half", async () => {
  await using world = await createWorld({ withVault: false });
  await gateway.createBucket("plain");
  const call = { variables: variables() };
  const create = async (store: string, days: readonly string[]) =>
    await world.run(["vault", "create", "--store", store, "--key-file", "key", ...days], call);
  const days = ["--immutability-days", "30"];
  assertFailure(await create("folder", days), "StoreUnsuitable", /in a folder/);
  assertFailure(
    await create("azblob://account/vault", days),
    "StoreUnsuitable",
    /Azure Blob Storage/,
  );
  const plain = `s3://plain/vm?endpoint=${gateway.endpoint}`;
  assertFailure(await create(plain, days), "ArgumentInvalid", /it takes both/);
  assertFailure(await create(url("s3://control/y"), []), "ArgumentInvalid", /it takes both/);
  const unlocked = await create(`${plain}&control=s3://control/z`, days);
  assertFailure(unlocked, "StoreUnsuitable", /has no object lock/);
  const swapped = `s3://locked/z?endpoint=${gateway.endpoint}&control=s3://locked/y`;
  assertFailure(await create(swapped, days), "ArgumentInvalid", /another bucket/);
  assertFailure(
    await create(url("s3://control/vm"), ["--immutability-days", "0"]),
    "ArgumentInvalid",
    /1 to/,
  );
});
