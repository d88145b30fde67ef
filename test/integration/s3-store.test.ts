// Goal: the S3 driver keeps every promise of the store port on a real gateway, Ceph's radosgw, and
// gets over every fault of the way there, and refuses a bucket that cannot commit.
import assert from "node:assert/strict";
import { ListObjectVersionsCommand, PutObjectCommand } from "@aws-sdk/client-s3";
import { mkdir, writeFile } from "node:fs/promises";
import { after, before, test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { parseStoreLocation, type S3Location } from "#drivers/store/store-location.ts";
import { openS3Store } from "#drivers/store/s3-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { startRadosgw, type Radosgw } from "#testing/radosgw.ts";
import { listAll, testObjectStore } from "#testing/suites/object-store-suite.ts";
import { assertFailure, createWorld } from "../e2e/cli.ts";
import { testCloudFaults } from "./cloud-faults.ts";
import { testCloudVault } from "./cloud-vault.ts";

let gateway: Radosgw;
let prefixes = 0;

before(async () => {
  gateway = await startRadosgw();
  await gateway.createBucket("kluis-test");
});
after(() => gateway[Symbol.asyncDispose]());

function place(bucket: string, prefix: string, port = gateway.port): S3Location {
  const text = `s3://${bucket}/${prefix}?endpoint=http://127.0.0.1:${port}`;
  const location = parseStoreLocation(text, "/");
  assert.ok(location.kind === "s3");
  return location;
}

testObjectStore("S3 store", {
  open: async () => {
    const location = place("kluis-test", `suite/${prefixes++}`);
    const openAgain = (): Promise<ObjectStore> =>
      openS3Store(location, { credentials: gateway.credentials });
    return {
      store: await openAgain(),
      openAgain,
      async [Symbol.asyncDispose]() {},
    };
  },
});

testCloudFaults("S3 store", {
  port: () => gateway.port,
  open: (name, port, clock) => {
    const location = place("kluis-test", name, port);
    return openS3Store(location, { credentials: gateway.credentials, clock });
  },
});

testCloudVault("S3 store", {
  port: () => gateway.port,
  url: (prefix, port) => `s3://kluis-test/${prefix}?endpoint=http://127.0.0.1:${port}`,
  open: (prefix, port) =>
    openS3Store(place("kluis-test", prefix, port), { credentials: gateway.credentials }),
  secrets: () => [gateway.credentials.secretAccessKey],
  listUrl: /list-type=2/,
  logins: [
    {
      name: "environment",
      prepare: async () => ({
        variables: {
          AWS_ACCESS_KEY_ID: gateway.credentials.accessKeyId,
          AWS_SECRET_ACCESS_KEY: gateway.credentials.secretAccessKey,
        },
        parameters: "",
      }),
    },
    {
      name: "profile",
      prepare: async (world) => {
        const { accessKeyId, secretAccessKey } = gateway.credentials;
        await mkdir(world.at(".aws"));
        const keys = `aws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}`;
        await writeFile(world.at(".aws/credentials"), `[vaults]\n${keys}\n`);
        return { variables: {}, parameters: "&profile=vaults" };
      },
    },
    {
      name: "credentials file",
      prepare: async (world) => {
        const { accessKeyId, secretAccessKey } = gateway.credentials;
        const lines = `AWS_ACCESS_KEY_ID=${accessKeyId}\nAWS_SECRET_ACCESS_KEY="${secretAccessKey}"\n`;
        await writeFile(world.at("s3.env"), lines, { mode: 0o600 });
        return { variables: {}, parameters: "&credentials=s3.env" };
      },
    },
  ],
});

for (const kind of ["versioned", "locked"] as const) {
  test(`S3 store: refuses a ${kind} bucket, where this gateway ignores the condition`, async () => {
    const bucket = `kluis-${kind}`;
    await gateway.createBucket(bucket, kind);
    const { credentials, client } = gateway;
    const store = await openS3Store(place(bucket, "v"), { credentials, create: true });
    await assert.rejects(store.probe(), (error) => {
      assert.ok(isKluisError(error, "StoreUnsuitable"));
      assert.match(error.message, /8 of 8 writers .* were told that they had created it/);
      return true;
    });
    const left = await client.send(new ListObjectVersionsCommand({ Bucket: bucket }));
    assert.deepEqual([left.Versions, left.DeleteMarkers], [undefined, undefined]);
  });
}

test("S3 store: the command makes no vault in a bucket that cannot commit", async () => {
  await gateway.createBucket("kluis-refused", "versioned");
  await using world = await createWorld({ withVault: false });
  const { accessKeyId, secretAccessKey } = gateway.credentials;
  const url = `s3://kluis-refused?endpoint=${gateway.endpoint}`;
  const keys = ["--key-file", "key", "--recovery-key-file", "recovery"];
  const result = await world.run(["vault", "create", "--store", url, ...keys], {
    variables: { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey },
  });
  assertFailure(result, "StoreUnsuitable", /If-None-Match is not honoured/);
});

test("S3 store: a bucket that is not there is StoreNotFound, wrong keys are StoreDenied", async () => {
  const { credentials } = gateway;
  const calls: ((store: ObjectStore) => Promise<unknown>)[] = [
    (store) => store.put("a", [Uint8Array.of(1)]),
    (store) => store.get("a"),
    (store) => store.stat("a"),
    (store) => store.remove("a"),
    (store) => store.probe(),
    (store) => listAll(store),
  ];
  const secretAccessKey = "not-the-secret-of-the-gateway";
  for (const call of calls) {
    const nowhere = await openS3Store(place("kluis-nowhere", ""), { credentials });
    await assert.rejects(call(nowhere), (error) => isKluisError(error, "StoreNotFound"));
    const denied = { credentials: { ...credentials, secretAccessKey } };
    const locked = await openS3Store(place("kluis-test", "x"), denied);
    await assert.rejects(call(locked), (error) => {
      assert.ok(isKluisError(error, "StoreDenied"), String(error));
      assert.doesNotMatch(JSON.stringify([error, error.stack]), /not-the-secret/);
      return true;
    });
  }
});

test("S3 store: create refuses a prefix with foreign objects", async () => {
  const { credentials } = gateway;
  const photo = { Bucket: "kluis-test", Key: "foreign/My Photo.jpg", Body: "x" };
  await gateway.client.send(new PutObjectCommand(photo));
  const foreign = openS3Store(place("kluis-test", "foreign"), { credentials, create: true });
  await assert.rejects(foreign, (error) => isKluisError(error, "StoreForeign"));
  await openS3Store(place("kluis-test", "empty"), { credentials, create: true });
});
