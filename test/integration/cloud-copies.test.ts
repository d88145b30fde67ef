/**
 * Goal: a vault in a folder is kept alive by a second store on S3 and on Azure Blob, and one on S3 by a
 * folder: the second store follows, restores alone, is healed, heals, is pruned, and takes over.
 * Method: the real command on real servers; replications are killed at their first object of each kind,
 * meet errors of every kind, and see listings of long ago. After each, what is there must be sound.
 */
import assert from "node:assert/strict";
import { cp, rename } from "node:fs/promises";
import { after, before, test } from "node:test";

import type {
  BackupOutput,
  CopyOutput,
  PointsOutput,
  StoreVerifyOutput,
  VaultHealedOutput,
  VaultLagOutput,
  VerifyOutput,
} from "#contract/cli-output.ts";
import { openAzureStore } from "#drivers/store/azure-store.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import { openS3Store } from "#drivers/store/s3-store.ts";
import { parseStoreLocation } from "#drivers/store/store-location.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { type Azurite, startAzurite } from "#testing/azurite.ts";
import { flipObjectBit } from "#testing/damage.ts";
import { type FaultProxy, startFaultProxy } from "#testing/fault-proxy.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { type Radosgw, startRadosgw } from "#testing/radosgw.ts";
import { listAll } from "#testing/suites/object-store-suite.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { sliceOf } from "#testing/slice.ts";
import { type CliWorld, collect, createWorld } from "../e2e/cli.ts";
import { passingFaults } from "./cloud-vault.ts";
import { mustRun, runQemuIo, writeRawImage } from "./disk-images.ts";

const MiB = 1024 * 1024;
const key = ["--key-file", "key"];
const isLong = process.env["KLUIS_LONG"] === "1";

let gateway: Radosgw;
let azurite: Azurite;
const servers = new AsyncDisposableStack();

before(async () => {
  gateway = servers.use(await startRadosgw());
  azurite = servers.use(await startAzurite());
  await gateway.createBucket("kluis-copies");
  await azurite.createContainer("kluis-copies");
});
after(() => servers.disposeAsync());

/** From which kind of store to which. */
interface Route {
  readonly name: string;
  readonly primary: "file" | "s3";
  readonly secondary: "file" | "s3" | "azure";
}

const routes: readonly Route[] = [
  { name: "a folder to S3", primary: "file", secondary: "s3" },
  { name: "a folder to Azure Blob", primary: "file", secondary: "azure" },
  { name: "S3 to a folder", primary: "s3", secondary: "file" },
];

/** Where replications are killed: at an object of that folder, after so many others of it. */
const allKills = [
  { folder: "packs", passing: 0 },
  { folder: "packs", passing: 1 },
  { folder: "index", passing: 0 },
  { folder: "points", passing: 0 },
  { folder: "points", passing: 1 },
] as const;
const kills = isLong ? allKills : [allKills[1], allKills[4]];

/** Two stores, the command, and the proxy in front of the one that is in a cloud. */
interface Pair extends AsyncDisposable {
  readonly world: CliWorld;
  readonly proxy: FaultProxy;
  readonly primary: string;
  readonly secondary: string;
  /** A second one of the same kind. */
  readonly other: string;
  /** Method of the requests that carry objects over. */
  readonly carrying: "PUT" | "GET";
  readonly json: <T>(words: readonly string[]) => Promise<T>;
  readonly variables: Readonly<Record<string, string>>;
}

async function createPair(route: Route): Promise<Pair> {
  const stack = new AsyncDisposableStack();
  const world = stack.use(await createWorld({ withVault: false }));
  const isAzure = route.secondary === "azure";
  const proxy = stack.use(await startFaultProxy(isAzure ? azurite.port : gateway.port));
  const variables = {
    AWS_ACCESS_KEY_ID: gateway.credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: gateway.credentials.secretAccessKey,
    AZURE_STORAGE_KEY: azurite.accountKey,
  };
  const prefix = `${route.primary}-${route.secondary}`;
  const endpoint = `http://127.0.0.1:${proxy.port}`;
  const { account } = azurite;
  const placeOf = (kind: Route["secondary"], name: string): string => {
    const path = `${prefix}/${name}`;
    if (kind === "file") return world.at(name);
    if (kind === "s3") return `s3://kluis-copies/${path}?endpoint=${endpoint}`;
    return `azblob://${account}/kluis-copies/${path}?endpoint=${endpoint}/${account}`;
  };
  const owned = stack.move();
  return {
    world,
    proxy,
    primary: placeOf(route.primary, "primary"),
    secondary: placeOf(route.secondary, "secondary"),
    other: placeOf(route.secondary, "other"),
    variables,
    carrying: route.primary === "s3" ? "GET" : "PUT",
    json: async (words) => await world.json(words, { variables }),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function openPlace(place: string): Promise<ObjectStore> {
  const location = parseStoreLocation(place, "/");
  if (location.kind === "s3") {
    return await openS3Store(location, { credentials: gateway.credentials });
  }
  if (location.kind === "azblob") {
    const credentials = { accountKey: azurite.accountKey };
    return await openAzureStore(location, { credentials });
  }
  return await openFileStore(location.path);
}

/** Makes the vault and three points; `a1.raw` to `a3.raw` are what they hold. */
async function fill(pair: Pair, route: Route): Promise<readonly string[]> {
  const { world, json, primary } = pair;
  const create = ["vault", "create", "--store", primary, ...key];
  await json([...create, "--recovery-key-file", "recovery"]);
  const disk = new MemoryDisk(8 * MiB);
  disk.write(0, createSeededRandom(`copies ${route.name}`).bytes(5 * MiB));
  await writeRawImage(world.at("a.raw"), disk);
  const ids: string[] = [];
  for (const number of [1, 2, 3]) {
    await runQemuIo(world.at("a.raw"), "raw", [`write -P ${number} ${number}M 48k`]);
    ids.push(await backUp(pair, primary, number));
  }
  return ids;
}

async function backUp({ world, json }: Pair, place: string, number: number): Promise<string> {
  await cp(world.at("a.raw"), world.at(`a${number}.raw`));
  const words = ["image", "backup", "a.raw", "--store", place, ...key];
  return (await json<BackupOutput>(words)).point.id;
}

function replicateWords({ primary }: Pair, secondary: string): readonly string[] {
  return ["vault", "replicate", "--store", primary, "--secondary", secondary, ...key];
}

/** Kills a replication while an object is on its way. */
async function killAt(pair: Pair, { folder, passing }: (typeof kills)[number]): Promise<void> {
  const { world, proxy, variables, carrying: method } = pair;
  const url = new RegExp(`^[^?]*(?:/|%2F)${folder}(?:/|%2F)`, "i");
  if (passing > 0) {
    proxy.inject({ fault: { kind: "slow", delayMs: 1 }, method, url, times: passing });
  }
  proxy.inject({ fault: { kind: "hang" }, method, url });
  const met = proxy.injected + passing + 1;
  const child = world.start(replicateWords(pair, pair.secondary), { variables });
  const ended = collect(child);
  while (proxy.injected < met) {
    assert.equal(child.exitCode, null, `the command reaches an object of ${folder}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  child.kill("SIGKILL");
  await ended;
  proxy.heal();
}

/** Points of the secondary, which must be sound with a key and without; none where it is no vault yet. */
async function pointsThere({
  world,
  variables,
  json,
  secondary,
}: Pair): Promise<readonly string[]> {
  const place = ["--store", secondary];
  const listing = await world.run(["image", "list", ...place, ...key, "--output", "json"], {
    variables,
  });
  if (listing.code !== 0) {
    assert.match(listing.stderr, /StoreNotFound|ObjectNotFound/);
    return [];
  }
  const keyless = await json<StoreVerifyOutput>(["vault", "verify", ...place]);
  assert.deepEqual([keyless.verdict, keyless.badObjects], ["sound", []]);
  assert.equal((await json<VerifyOutput>(["image", "verify", ...place, ...key])).verdict, "sound");
  return (JSON.parse(listing.stdout) as PointsOutput).points.map(({ id }) => id).sort();
}

/** Restores a point and compares it with the image of that number. */
async function assertRestores(
  { world, json }: Pair,
  from: readonly string[],
  { id, number }: { readonly id: string; readonly number: number },
): Promise<void> {
  const target = `${id}-${from.length}.raw`;
  await json(["image", "restore", "a.raw", target, "--point", id, ...from, ...key]);
  await mustRun("qemu-img", ["compare", world.at(`a${number}.raw`), world.at(target)]);
}

async function firstPack(store: ObjectStore): Promise<string> {
  const [first] = (await listAll(store, "packs/")).keys();
  return first ?? assert.fail("a vault with points has a pack");
}

/** Removes a pack here and damages one there; a check without a key names it, and healing ends it. */
async function assertHeals(pair: Pair): Promise<void> {
  const { world, variables, json, primary, secondary } = pair;
  for (const [store, copy] of [
    [secondary, primary],
    [primary, secondary],
  ] as const) {
    const place = await openPlace(store);
    const pack = await firstPack(place);
    const harms = ["removed", "flipped"] as const;
    for (const harm of isLong ? harms : [store === secondary ? harms[0] : harms[1]]) {
      if (harm === "removed") await place.remove(pack);
      else await flipObjectBit(place, pack, 8 * 100 + 3);
      const verify = ["vault", "verify", "--store", store, "--output", "json"];
      const found = await world.run(verify, { variables });
      assert.equal(found.code, 14, found.stderr);
      const { badObjects } = JSON.parse(found.stdout) as StoreVerifyOutput;
      assert.deepEqual(
        badObjects.map(({ name }) => name),
        [pack],
      );
      const heal = ["vault", "heal", "--store", store, "--copy", copy, ...key];
      const { healed, unhealed } = await json<VaultHealedOutput>(heal);
      assert.deepEqual([healed.map(({ name }) => name), unhealed], [[pack], []]);
      assert.equal((await world.run(verify, { variables })).code, 0);
    }
  }
}

/** Replicates to the other place while requests fail; returns how many did. */
async function replicateThroughFaults(pair: Pair, route: Route): Promise<number> {
  const { proxy, json, other, carrying: method } = pair;
  const before = proxy.injected;
  for (const status of [500, 503]) {
    proxy.inject({ fault: { kind: "status", status, retryAfterS: 0 }, method });
  }
  for (const kind of ["lost-answer", "drop"] as const) {
    proxy.inject({ fault: { kind }, method, url: /^[^?]*points/ });
  }
  const random = createSeededRandom(`copies ${route.name} faults`);
  proxy.failByChance({ random, probability: 0.1, faults: passingFaults });
  const { lag, heldBack, points } = await json<CopyOutput>(replicateWords(pair, other));
  assert.deepEqual([points, lag.objects, lag.seconds, heldBack], [3, 0, 0, []]);
  assert.ok(!proxy.isArmed, "every kind of fault was met");
  proxy.heal();
  return proxy.injected - before;
}

/** One point more, which a replication that sees listings of long ago may miss, and the next one brings. */
async function replicateThroughStaleListings(pair: Pair): Promise<string> {
  const { world, proxy, primary, secondary, json, variables } = pair;
  await runQemuIo(world.at("a.raw"), "raw", ["write -P 4 4M 48k"]);
  const fourth = await backUp(pair, primary, 4);
  const stores = ["--store", primary, "--secondary", secondary];
  const measured = (await json<VaultLagOutput>(["vault", "lag", ...stores])).lag;
  assert.ok(measured.points === 1 && measured.bytes > 0 && measured.seconds > 0);
  const before = proxy.injected;
  proxy.inject({ fault: { kind: "stale" }, url: /list-type=2|comp=list/, times: Infinity });
  const words = [...replicateWords(pair, secondary), "--output", "json"];
  const stale = await world.run(words, { variables });
  // What it did not see it may hold back; nothing else may come of it.
  assert.ok(stale.code === 0 || stale.code === 14, stale.stderr);
  assert.ok(proxy.injected > before, "listings were stale");
  proxy.heal();
  assert.equal((await json<CopyOutput>(replicateWords(pair, secondary))).lag.objects, 0);
  return fourth;
}

/** Deletes a point of the primary and collects there; pruning takes it, and what it alone needed, out of the secondary. */
async function assertPrunes(pair: Pair, deleted: string, kept: readonly string[]): Promise<void> {
  const { json, primary, secondary } = pair;
  const item = ["--item", "a.raw"];
  // To free what one point alone needed packs are written anew, which are most of this vault.
  const mass = ["--allow-mass-deletion"];
  await json(["image", "delete", "--store", primary, ...item, "--point", deleted, ...key]);
  await json(["vault", "collect", "--store", primary, "--max-unused", "0", ...mass, ...key]);
  const before = await listAll(await openPlace(secondary), "");
  const prune = [...replicateWords(pair, secondary), "--prune", ...mass];
  const { pruning } = await json<CopyOutput>(prune);
  assert.deepEqual([pruning?.pointsDeleted, pruning?.pointsUnexplained], [1, 0]);
  assert.deepEqual(await pointsThere(pair), kept);
  const after = await listAll(await openPlace(secondary), "");
  const gone = [...before.keys()].filter((name) => !after.has(name));
  const kinds = new Set(gone.map((name) => name.split("/", 1)[0]));
  // Its blocks stay: later points need the rest of each.
  assert.deepEqual(kinds, new Set(["index", "maps", "points"]));
}

for (const route of sliceOf(routes, 1)) {
  test(`cloud copies: ${route.name}: follows through kills, faults and stale listings, and takes over`, async () => {
    await using pair = await createPair(route);
    const { world, primary, secondary, json } = pair;
    const ids = await fill(pair, route);
    let killed = 0;
    for (const kill of kills) {
      await killAt(pair, kill);
      const there = await pointsThere(pair);
      assert.deepEqual(there, ids.slice(0, there.length));
      killed++;
    }
    await json<CopyOutput>(replicateWords(pair, secondary));
    assert.deepEqual(await pointsThere(pair), ids);
    const failed = await replicateThroughFaults(pair, route);
    const fourth = await replicateThroughStaleListings(pair);
    assert.deepEqual(await pointsThere(pair), [...ids, fourth]);
    await assertHeals(pair);
    const [first = "", ...rest] = ids;
    await assertPrunes(pair, first, [...rest, fourth]);

    if (route.primary === "file") await rename(primary, world.at("lost"));
    const from = ["--store", primary, "--secondary", secondary, "--from", "secondary"];
    for (const [at, id] of [...rest, fourth].entries()) {
      if (!isLong && at !== 0 && id !== fourth) continue;
      await assertRestores(pair, from, { id, number: at + 2 });
    }
    await json(["vault", "promote", "--store", secondary]);
    await runQemuIo(world.at("a.raw"), "raw", ["write -P 5 5M 48k"]);
    const fifth = await backUp(pair, secondary, 5);
    await assertRestores(pair, ["--store", secondary], { id: fifth, number: 5 });
    assert.deepEqual(await pointsThere(pair), [...rest, fourth, fifth]);
    console.log(`${route.name}: ${killed} kills, ${failed} requests failed`);
  });
}
