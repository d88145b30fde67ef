/**
 * A real S3 for tests: Ceph's radosgw with one monitor and one OSD in memory, on loopback.
 *
 * No manager and no authentication between the parts, which makes it start in some 10 s.
 */
import {
  CreateBucketCommand,
  HeadBucketCommand,
  PutBucketVersioningCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import { randomUUID } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { spawnDaemon } from "#drivers/process/daemon.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import type { S3Credentials } from "#drivers/store/s3-store.ts";
import { findFreePort } from "./free-port.ts";
import { createTempFolder } from "./temp-folder.ts";

const readyTimeoutMs = 60_000;
const askAgainAfterMs = 200;
/** A port that was free may be taken by the time that its server binds it; then all starts anew. */
const startsMax = 3;
const memoryBytes = 4 * 1024 ** 3;

/** A kind of bucket. */
export type BucketKind = "plain" | "versioned" | "locked";

/** A running gateway. */
export interface Radosgw extends AsyncDisposable {
  readonly port: number;
  /** `http://127.0.0.1:PORT`. */
  readonly endpoint: string;
  readonly credentials: S3Credentials;
  /** How long it took to start. */
  readonly startedInMs: number;
  createBucket(name: string, kind?: BucketKind): Promise<void>;
  /** A client for what the store port has no method for. */
  readonly client: S3Client;
}

const credentials: S3Credentials = {
  accessKeyId: "KLUISTESTACCESSKEY00",
  secretAccessKey: "kluis-test-secret-of-the-gateway-000000",
};

/** Starts the gateway and waits until it answers to its user. Disposing ends it and removes everything. */
export async function startRadosgw(): Promise<Radosgw> {
  for (let started = 1; ; started++) {
    try {
      return await startOnce();
    } catch (error) {
      if (started === startsMax) throw error;
      console.log(`radosgw did not start, once more: ${String(error)}`);
    }
  }
}

async function startOnce(): Promise<Radosgw> {
  const startedMs = performance.now();
  const stack = new AsyncDisposableStack();
  try {
    const folder = stack.use(await createTempFolder()).path;
    const monitorPort = await findFreePort();
    const port = await findFreePort();
    const osdUuid = randomUUID();
    await prepare({ folder, monitorPort, port });
    const conf = ["-c", join(folder, "ceph.conf")];
    const start = async (command: string, args: readonly string[]): Promise<void> => {
      const options = { isReady: () => Promise.resolve(true), readyTimeoutMs, stopGraceMs: 1 };
      stack.use(await spawnDaemon(command, [...args, ...conf, "-f"], options));
    };
    await start("ceph-mon", ["-i", "a", "--public-addr", `127.0.0.1:${monitorPort}`]);
    await askMonitor([...conf, "osd", "create", osdUuid]);
    await tool("ceph-osd", ["-i", "0", "--mkfs", "--osd-uuid", osdUuid, ...conf]);
    await askMonitor([...conf, "osd", "crush", "add", "osd.0", "1", "root=default"]);
    await start("ceph-osd", ["-i", "0"]);
    await start("radosgw", ["-n", "client.rgw"]);
    const { accessKeyId, secretAccessKey } = credentials;
    const keys = [`--access-key=${accessKeyId}`, `--secret=${secretAccessKey}`];
    const user = ["--uid=kluis", "--display-name=kluis", ...keys];
    await tool("radosgw-admin", [...conf, "user", "create", ...user]);
    const endpoint = `http://127.0.0.1:${port}`;
    const client = createClient(endpoint);
    await waitUntilItAnswers(client);
    stack.defer(() => client.destroy());
    const owned = stack.move();
    return {
      port,
      endpoint,
      credentials,
      client,
      startedInMs: performance.now() - startedMs,
      createBucket: (name, kind) => createBucket(client, name, kind),
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    };
  } finally {
    await stack.disposeAsync();
  }
}

async function prepare(place: {
  readonly folder: string;
  readonly monitorPort: number;
  readonly port: number;
}): Promise<void> {
  const { folder, monitorPort, port } = place;
  const fsid = randomUUID();
  await mkdir(join(folder, "mon"));
  await mkdir(join(folder, "osd"));
  const settings: Readonly<Record<string, string>> = {
    fsid,
    "mon host": `v1:127.0.0.1:${monitorPort}`,
    "public addr": "127.0.0.1",
    "cluster addr": "127.0.0.1",
    "auth cluster required": "none",
    "auth service required": "none",
    "auth client required": "none",
    "auth supported": "none",
    "osd objectstore": "memstore",
    "memstore device bytes": String(memoryBytes),
    "osd pool default size": "1",
    "osd pool default min size": "1",
    "osd pool default pg num": "4",
    "osd crush chooseleaf type": "0",
    "mon allow pool size one": "true",
    "ms bind msgr2": "false",
    "osd class update on start": "false",
    "osd crush update on start": "false",
    "run dir": folder,
    "admin socket": join(folder, "$name.asok"),
    "log file": join(folder, "$name.log"),
    "pid file": join(folder, "$name.pid"),
    "mon data": join(folder, "mon"),
    "osd data": join(folder, "osd"),
    "rgw frontends": `beast endpoint=127.0.0.1:${port} tcp_nodelay=1`,
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`);
  const conf = join(folder, "ceph.conf");
  await writeFile(conf, `[global]\n${lines.join("\n")}\n`);
  const map = join(folder, "monmap");
  const monitor = `[v1:127.0.0.1:${monitorPort}]`;
  await tool("monmaptool", ["--create", "--addv", "a", monitor, "--fsid", fsid, map]);
  await tool("ceph-mon", ["--mkfs", "-i", "a", "--monmap", map, "-c", conf]);
}

/**
 * Runs a command of `ceph` that may run twice. A monitor that has just started refuses who asks which
 * commands there are, on a loaded machine; then nothing was done, and the next asking is answered.
 */
async function askMonitor(args: readonly string[]): Promise<void> {
  const endMs = performance.now() + readyTimeoutMs;
  for (;;) {
    const result = await runTool("ceph", args, { timeoutMs: readyTimeoutMs });
    const isRefused = /problem getting command descriptions from mon/.test(result.stderr);
    if (!isRefused || performance.now() > endMs) {
      assertToolSucceeded("ceph", result);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, askAgainAfterMs));
  }
}

async function tool(command: string, args: readonly string[]): Promise<void> {
  const result = await runTool(command, args, { timeoutMs: readyTimeoutMs });
  assertToolSucceeded(command, result);
}

function createClient(endpoint: string): S3Client {
  return new S3Client({
    endpoint,
    credentials,
    region: "us-east-1",
    forcePathStyle: true,
    requestChecksumCalculation: "WHEN_REQUIRED",
  });
}

async function waitUntilItAnswers(client: S3Client): Promise<void> {
  const endMs = performance.now() + readyTimeoutMs;
  for (;;) {
    try {
      await client.send(new HeadBucketCommand({ Bucket: "nothing" }));
      return;
    } catch (error) {
      const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata;
      if (status?.httpStatusCode === 404) return;
      if (performance.now() > endMs) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function createBucket(client: S3Client, name: string, kind?: BucketKind): Promise<void> {
  const lock = kind === "locked" ? { ObjectLockEnabledForBucket: true } : {};
  await client.send(new CreateBucketCommand({ Bucket: name, ...lock }));
  if (kind !== "versioned") return;
  const VersioningConfiguration = { Status: "Enabled" as const };
  await client.send(new PutBucketVersioningCommand({ Bucket: name, VersioningConfiguration }));
}
