/** A store in a container of Azure Blob Storage. See docs/adr/0007-cloud-stores.md. */
import {
  BlobServiceClient,
  ContainerClient,
  StorageSharedKeyCredential,
  type StoragePipelineOptions,
} from "@azure/storage-blob";

import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { AzureService } from "./azure/azure-service.ts";
import { CloudStore } from "./cloud/cloud-store.ts";
import type { AzureLocation } from "./store-location.ts";

/** The ways into an account; the first that is given is used. */
export interface AzureCredentials {
  readonly connectionString?: string | undefined;
  /** Base64. */
  readonly accountKey?: string | undefined;
  /** `sv=…&sig=…`. */
  readonly sasToken?: string | undefined;
}

/** How an Azure store is opened. */
export interface AzureStoreOptions {
  readonly credentials: AzureCredentials;
  /** Refuses a prefix that holds foreign objects. */
  readonly create?: boolean;
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
  readonly random?: RandomSource;
}

/**
 * Opens the store at `location`. Nothing is sent, unless `create` is given: then its first page of
 * objects is looked at. The container must be there.
 *
 * Errors: StoreDenied (after-change) without credentials, ArgumentInvalid (after-change) where they
 * are out of form; with `create` also StoreForeign, StoreNotFound, StoreUnavailable.
 */
export async function openAzureStore(
  location: AzureLocation,
  options: AzureStoreOptions,
): Promise<ObjectStore> {
  const service = new AzureService(createClient(location, options.credentials), location.text);
  const store = new CloudStore({ service, prefix: location.prefix, ...options });
  if (options.create === true) await store.assertNoForeignBlobs(options.signal);
  return store;
}

/** The core sends again what has to be sent again; the library must not. */
const pipeline: StoragePipelineOptions = {
  retryOptions: { maxTries: 1 },
  keepAliveOptions: { enable: true },
};

function createClient(location: AzureLocation, credentials: AzureCredentials): ContainerClient {
  const { account, container } = location;
  const { connectionString = "", accountKey = "", sasToken = "" } = credentials;
  if (connectionString !== "") return fromConnectionString(location, connectionString);
  const endpoint = location.endpoint ?? `https://${account}.blob.core.windows.net`;
  const url = `${endpoint}/${container}`;
  if (accountKey !== "") {
    return new ContainerClient(url, new StorageSharedKeyCredential(account, accountKey), pipeline);
  }
  const token = sasToken.replace(/^\?/, "");
  if (token === "") {
    throw new KluisError(
      "StoreDenied",
      `Cannot open "${location.text}": no credentials were found; set AZURE_STORAGE_CONNECTION_STRING, ` +
        "AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or name a file of them with credentials=",
    );
  }
  if (!new URLSearchParams(token).has("sig")) throw badCredentials(location, "the SAS token");
  return new ContainerClient(`${url}?${token}`, undefined, pipeline);
}

function fromConnectionString(location: AzureLocation, connectionString: string): ContainerClient {
  if (location.endpoint !== undefined) {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot open "${location.text}": endpoint= and a connection string both say where it is`,
    );
  }
  const client = readConnectionString(location, connectionString);
  if (client.accountName !== location.account) {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot open "${location.text}": the connection string is for account "${client.accountName}"`,
    );
  }
  return client.getContainerClient(location.container);
}

/** The library's error could repeat a part of the secret. */
function readConnectionString(location: AzureLocation, text: string): BlobServiceClient {
  try {
    return BlobServiceClient.fromConnectionString(text, pipeline);
  } catch {
    throw badCredentials(location, "the connection string");
  }
}

function badCredentials(location: AzureLocation, what: string): KluisError {
  return new KluisError(
    "ArgumentInvalid",
    `Cannot open "${location.text}": ${what} is out of form`,
  );
}
