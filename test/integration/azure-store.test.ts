// Goal: the Azure driver keeps every promise of the store port on Azurite, gets over every fault of the
// way there, and takes every kind of credentials.
import { ContainerSASPermissions } from "@azure/storage-blob";
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { after, before, test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { openAzureStore } from "#drivers/store/azure-store.ts";
import { type AzureLocation, parseStoreLocation } from "#drivers/store/store-location.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { type Azurite, startAzurite } from "#testing/azurite.ts";
import { listAll, testObjectStore } from "#testing/suites/object-store-suite.ts";
import { testCloudFaults } from "./cloud-faults.ts";
import { testCloudVault } from "./cloud-vault.ts";

let azurite: Azurite;
let prefixes = 0;

before(async () => {
  azurite = await startAzurite();
  await azurite.createContainer("kluis-test");
});
after(() => azurite[Symbol.asyncDispose]());

function place(container: string, prefix: string, port = azurite.port): AzureLocation {
  const { account } = azurite;
  const endpoint = `http://127.0.0.1:${port}/${account}`;
  const text = `azblob://${account}/${container}/${prefix}?endpoint=${endpoint}`;
  const location = parseStoreLocation(text, "/");
  assert.ok(location.kind === "azblob");
  return location;
}

testObjectStore("Azure store", {
  open: async () => {
    const location = place("kluis-test", `suite/${prefixes++}`);
    const credentials = { accountKey: azurite.accountKey };
    const openAgain = (): Promise<ObjectStore> => openAzureStore(location, { credentials });
    return {
      store: await openAgain(),
      openAgain,
      async [Symbol.asyncDispose]() {},
    };
  },
});

testCloudFaults("Azure store", {
  port: () => azurite.port,
  open: (name, port, clock) => {
    const location = place("kluis-test", name, port);
    const credentials = { accountKey: azurite.accountKey };
    return openAzureStore(location, { credentials, clock });
  },
});

testCloudVault("Azure store", {
  port: () => azurite.port,
  url: (prefix, port) => {
    const { account } = azurite;
    return `azblob://${account}/kluis-test/${prefix}?endpoint=http://127.0.0.1:${port}/${account}`;
  },
  open: (prefix, port) => {
    const credentials = { accountKey: azurite.accountKey };
    return openAzureStore(place("kluis-test", prefix, port), { credentials });
  },
  secrets: () => [azurite.accountKey],
  listUrl: /comp=list/,
  logins: [
    {
      name: "account key",
      prepare: async () => ({
        variables: { AZURE_STORAGE_KEY: azurite.accountKey },
        parameters: "",
      }),
    },
    {
      name: "credentials file",
      prepare: async (world) => {
        const lines = `AZURE_STORAGE_KEY=${azurite.accountKey}\n`;
        await writeFile(world.at("azure.env"), lines, { mode: 0o600 });
        return { variables: {}, parameters: "&credentials=azure.env" };
      },
    },
  ],
});

test("Azure store: key, SAS token and connection string open it; what is wrong is refused", async () => {
  const { account, accountKey, connectionString, client } = azurite;
  const location = place("kluis-test", "credentials");
  const sasUrl = await client.getContainerClient("kluis-test").generateSasUrl({
    permissions: ContainerSASPermissions.parse("racwdl"),
    expiresOn: new Date(Date.now() + 3_600_000),
  });
  const sasToken = new URL(sasUrl).search;
  const plain = parseStoreLocation(`azblob://${account}/kluis-test/credentials`, "/");
  assert.ok(plain.kind === "azblob");
  const good = [
    { location, credentials: { accountKey } },
    { location, credentials: { sasToken } },
    { location: plain, credentials: { connectionString } },
  ];
  for (const { location, credentials } of good) {
    const store = await openAzureStore(location, { credentials, create: true });
    await store.probe();
  }
  const wrongKey = Buffer.alloc(64, 7).toString("base64");
  const bad = [
    { credentials: {}, code: "StoreDenied" },
    { credentials: { accountKey: wrongKey }, code: "StoreDenied" },
    { credentials: { sasToken: sasToken.replace(/sig=[^&]*/, "sig=AAAA") }, code: "StoreDenied" },
    { credentials: { sasToken: "AccountKey=topsecret" }, code: "ArgumentInvalid" },
    { credentials: { connectionString }, code: "ArgumentInvalid" },
    { credentials: { connectionString: "AccountKey=topsecret" }, code: "ArgumentInvalid" },
  ] as const;
  for (const { credentials, code } of bad) {
    const opened = openAzureStore(location, { credentials, create: true });
    await assert.rejects(opened, (error) => {
      assert.ok(isKluisError(error, code), String(error));
      assert.doesNotMatch(JSON.stringify([error, error.stack]), /topsecret|sig=|BwcH/);
      return true;
    });
  }
});

test("Azure store: a container that is not there is StoreNotFound", async () => {
  const credentials = { accountKey: azurite.accountKey };
  const store = await openAzureStore(place("kluis-nowhere", ""), { credentials });
  const isNotFound = (error: unknown): boolean => isKluisError(error, "StoreNotFound");
  await assert.rejects(store.put("a", [Uint8Array.of(1)]), isNotFound);
  await assert.rejects(store.get("a"), isNotFound);
  await assert.rejects(store.stat("a"), isNotFound);
  await assert.rejects(store.remove("a"), isNotFound);
  await assert.rejects(store.probe(), isNotFound);
  await assert.rejects(listAll(store), isNotFound);
});
