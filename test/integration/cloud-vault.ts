/** A vault on a cloud store from end to end; each driver runs this against its real server. */
import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { test } from "node:test";

import type {
  BackupOutput,
  PointsOutput,
  VaultCreatedOutput,
  VerifyOutput,
} from "#contract/cli-output.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { type ProxyFault, startFaultProxy } from "#testing/fault-proxy.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp } from "#testing/vault-points.ts";
import { assertFailure, type CliResult, type CliWorld, createWorld } from "../e2e/cli.ts";
import { mustRun, runQemuIo, writeRawImage } from "./disk-images.ts";

/** A server and the ways to it. */
export interface CloudPlace {
  readonly port: () => number;
  /** `--store` for an empty place, through the server at `port`. */
  readonly url: (prefix: string, port: number) => string;
  /** Ways to sign in: each prepares files and says which variables and parameters it takes. */
  readonly logins: readonly {
    readonly name: string;
    readonly prepare: (world: CliWorld) => Promise<CloudLogin>;
  }[];
  /** What must appear nowhere. */
  readonly secrets: () => readonly string[];
  readonly open: (prefix: string, port: number) => Promise<ObjectStore>;
  /** Requests that list. */
  readonly listUrl: RegExp;
}

/** How a command signs in. */
export interface CloudLogin {
  readonly variables: Readonly<Record<string, string>>;
  /** Added to the URL: `&profile=x`. */
  readonly parameters: string;
}

const MiB = 1024 * 1024;
/** Faults that a command gets over. */
export const passingFaults: readonly ProxyFault[] = [
  { kind: "status", status: 500 },
  { kind: "status", status: 503, retryAfterS: 0 },
  { kind: "drop" },
  { kind: "lost-answer" },
  { kind: "cut-request" },
  { kind: "damage-request" },
  { kind: "cut-answer" },
  { kind: "slow", delayMs: 20 },
];

/** Declares the tests for the driver called `name`. */
export function testCloudVault(name: string, place: CloudPlace): void {
  for (const [at, login] of place.logins.entries()) {
    const isFirst = at === 0;
    const does = isFirst ? "creates, backs up, verifies and restores" : "creates and lists a vault";
    test(`${name}: the command ${does}, signed in by ${login.name}, through faults`, async () => {
      await using proxy = await startFaultProxy(place.port());
      await using world = await createWorld({ withVault: false });
      const { variables, parameters } = await login.prepare(world);
      const store = `${place.url(`cli/${at}`, proxy.port)}${parameters}`;
      const random = createSeededRandom(`${name} ${login.name}`);
      proxy.failByChance({ random, probability: 0.1, faults: passingFaults });
      const command = createCommand(world, { store, variables });
      await createVault(command, store);
      if (isFirst) await runThrough(world, command);
      else assert.deepEqual((await command.json<PointsOutput>(["image", "list"])).points, []);
      const shown = command.shown.join("\n");
      for (const secret of place.secrets()) assert.ok(!shown.includes(secret), "a secret is shown");
      const { requests, injected } = proxy;
      console.log(`${name}, ${login.name}: ${requests} requests, ${injected} of them failed`);
    });
  }

  test(`${name}: a stale listing costs space, but no recovery point`, async () => {
    await using proxy = await startFaultProxy(place.port());
    const store = await place.open("stale", proxy.port);
    const disks = [new MemoryDisk(4 * MiB)];
    disks[0]?.write(0, createSeededRandom(`${name} stale`).bytes(2 * MiB));
    const first = await backUpOnce(store, 1, disks);
    disks[0]?.write(MiB, createSeededRandom(`${name} stale 2`).bytes(8192));
    const stale: ProxyFault = { kind: "stale" };
    proxy.inject({ fault: stale, url: place.listUrl, times: Number.POSITIVE_INFINITY });
    const second = await backUpOnce(store, 2, disks);
    assert.ok(proxy.injected > 0, "listings were stale");
    proxy.heal();
    await using vault = await openTestVault({ store: await place.open("stale", proxy.port) });
    assert.equal((await vault.listPoints("vm")).length, 2);
    await assertPointReads(vault, first);
    await assertPointReads(vault, second);
  });
}

/** What a process of its own would do: open, back up in full, close. */
async function backUpOnce(store: ObjectStore, number: number, disks: readonly MemoryDisk[]) {
  await using vault = await openTestVault({ store });
  return await backUp(vault, { itemId: "vm", number, disks });
}

/** The command on one store. */
interface Command {
  /** Everything that was printed. */
  readonly shown: string[];
  readonly run: (words: readonly string[]) => Promise<CliResult>;
  /** With `--store` and the key file, or what `key` says. */
  readonly json: <T>(words: readonly string[], key?: readonly string[]) => Promise<T>;
}

function createCommand(
  world: CliWorld,
  { store, variables }: { readonly store: string; readonly variables: CloudLogin["variables"] },
): Command {
  const shown: string[] = [];
  const keyFile: readonly string[] = ["--key-file", "key"];
  const run = async (words: readonly string[]): Promise<CliResult> => {
    const result = await world.run(words, { variables });
    shown.push(result.stdout, result.stderr);
    return result;
  };
  const json = async <T>(words: readonly string[], key = keyFile): Promise<T> => {
    const result = await run([...words, "--store", store, ...key, "--output", "json"]);
    assert.equal(result.code, 0, `${words.join(" ")}: ${result.stderr}`);
    return JSON.parse(result.stdout) as T;
  };
  return { shown, run, json };
}

async function createVault(command: Command, store: string): Promise<void> {
  const create = ["vault", "create", "--recovery-key-file", "recovery"];
  const created = await command.json<VaultCreatedOutput>(create);
  assert.ok(store.startsWith(created.store), created.store);
  const again = await command.run(["vault", "create", "--store", store, "--key-file", "key"]);
  assertFailure(again, "StoreNotEmpty", /there is one/);
}

/** The life of a vault. */
async function runThrough(world: CliWorld, command: Command): Promise<void> {
  const disk = new MemoryDisk(12 * MiB);
  disk.write(0, createSeededRandom("cloud vault").bytes(7 * MiB));
  await writeRawImage(world.at("a.raw"), disk);
  const first = await command.json<BackupOutput>(["image", "backup", "a.raw"]);
  await mustRun("cp", [world.at("a.raw"), world.at("a1.raw")]);
  await runQemuIo(world.at("a.raw"), "raw", ["write -P 7 100k 4k", "write -z 2M 1M"]);
  const second = await command.json<BackupOutput>(["image", "backup", "a.raw"]);
  assert.equal(second.point.basePointId, first.point.id);
  const listing = await command.json<PointsOutput>(["image", "list"]);
  assert.deepEqual(
    listing.points.map(({ id }) => id).sort(),
    [first.point.id, second.point.id].sort(),
  );
  await rm(world.at(".cache"), { recursive: true, force: true });
  assert.equal((await command.json<VerifyOutput>(["image", "verify"])).verdict, "sound");
  const recovery = ["--recovery-key-file", "recovery"];
  for (const [point, image] of [
    [first.point.id, "a1.raw"],
    [second.point.id, "a.raw"],
  ] as const) {
    await command.json(["image", "restore", "a.raw", `${point}.raw`, "--point", point]);
    await mustRun("qemu-img", ["compare", world.at(image), world.at(`${point}.raw`)]);
  }
  const rescued = await command.json<VerifyOutput>(["rescue", "verify"], recovery);
  assert.equal(rescued.verdict, "sound");
}
