// Goal: the Azure driver keeps every promise of the store port on Azurite.
import assert from "node:assert/strict";
import { after, before } from "node:test";

import { openAzureStore } from "#drivers/store/azure-store.ts";
import { type AzureLocation, parseStoreLocation } from "#drivers/store/store-location.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { type Azurite, startAzurite } from "#testing/azurite.ts";
import { testObjectStore } from "#testing/suites/object-store-suite.ts";

let azurite: Azurite;
let prefixes = 0;

before(async () => {
  azurite = await startAzurite();
  await azurite.createContainer("kluis-test");
});
after(() => azurite[Symbol.asyncDispose]());

function place(container: string, prefix: string): AzureLocation {
  const text = `azblob://${azurite.account}/${container}/${prefix}?endpoint=${azurite.endpoint}`;
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
