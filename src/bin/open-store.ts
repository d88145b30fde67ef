/** Opens the store that a user names, with the credentials that the host has for it. */
import { KluisError } from "#base/kluis-error.ts";
import type { S3Credentials } from "#drivers/store/s3-store.ts";
import type { AzureLocation, S3Location, StoreLocation } from "#drivers/store/store-location.ts";
import type { LockPolicy } from "#formats/lock-policy.ts";
import type { ObjectStore } from "#ports/object-store.ts";

/** What a store takes from the process. */
export interface StoreHost {
  /** What relative paths are taken from. */
  readonly workingFolder: string;
  readonly variables: Variables;
  readonly signal: AbortSignal;
}

type Variables = Readonly<Record<string, string | undefined>>;

/** What is asked of a store. */
export interface StoreWish {
  readonly create: boolean;
  /** With `create`: lock what is put for so many days. */
  readonly immutabilityDays?: number | undefined;
  /** With `create`: a vault that is elsewhere is to be copied there. */
  readonly isCopy?: boolean | undefined;
}

/** Opens the store at `place`, as the user wrote it. Errors: ArgumentInvalid, Store*. */
export async function openStore(place: string, host: StoreHost & StoreWish): Promise<ObjectStore> {
  const { parseStoreLocation } = await import("#drivers/store/store-location.ts");
  const location = parseStoreLocation(place, host.workingFolder);
  assertCanLock(location, host);
  if (location.kind === "file") {
    const { openFileStore } = await import("#drivers/store/file-store.ts");
    return await openFileStore(location.path, { create: host.create });
  }
  const variables = await readVariables(location, host);
  const { create, signal } = host;
  if (location.kind === "s3") {
    const { openS3Store } = await import("#drivers/store/s3-store.ts");
    const region = regionOf(location, variables);
    const credentials = s3CredentialsOf(location, variables);
    const named = region === undefined ? location : { ...location, region };
    const options = { create, signal, ...(credentials && { credentials }) };
    if (named.control === undefined) return await openS3Store(named, options);
    const { openWormStore } = await import("#drivers/store/s3-worm-store.ts");
    return await openWormStore(named, { ...options, policy: policyOf(host.immutabilityDays) });
  }
  const { openAzureStore } = await import("#drivers/store/azure-store.ts");
  const credentials = {
    connectionString: variables["AZURE_STORAGE_CONNECTION_STRING"],
    accountKey: variables["AZURE_STORAGE_KEY"],
    sasToken: variables["AZURE_STORAGE_SAS_TOKEN"],
  };
  return await openAzureStore(location, { create, signal, credentials });
}

const dayMs = 24 * 3600 * 1000;
/** Objects of ten days share the end of their lock. */
const generationMs = 10 * dayMs;

function policyOf(days: number | undefined): LockPolicy | undefined {
  return days === undefined ? undefined : { periodMs: days * dayMs, generationMs };
}

/** Immutability is an S3 bucket's with object lock and a control place beside it. */
function assertCanLock(location: StoreLocation, wish: StoreWish): void {
  const isWorm = location.kind === "s3" && location.control !== undefined;
  if (wish.immutabilityDays !== undefined && location.kind !== "s3") {
    const kind = location.kind === "file" ? "a folder" : "Azure Blob Storage";
    throw new KluisError(
      "StoreUnsuitable",
      `Cannot create an immutable vault in ${kind}: only S3 with object lock has been proven`,
    );
  }
  if (wish.isCopy === true && isWorm) {
    throw new KluisError(
      "ArgumentInvalid",
      'Cannot copy a vault to an immutable place: that has not been proven; name a place without "control=", or ' +
        "make the copy immutable from its first backup on: kluis vault create --immutability-days, and back up there",
    );
  }
  if (wish.create && isWorm !== (wish.immutabilityDays !== undefined)) {
    throw new KluisError(
      "ArgumentInvalid",
      "Cannot create an immutable vault: it takes both --immutability-days and control=s3://BUCKET/PREFIX in --store",
    );
  }
}

/** The environment, or a file that stands in for it. */
async function readVariables(
  location: S3Location | AzureLocation,
  host: StoreHost,
): Promise<Variables> {
  const path = location.credentialsFile;
  if (path === undefined) return host.variables;
  const { readSecretFile } = await import("#drivers/secret-file/secret-file.ts");
  const { parseEnv } = await import("node:util");
  return parseEnv(new TextDecoder().decode(await readSecretFile("credentials file", path)));
}

/** `undefined` leaves it to the driver. */
function regionOf(location: S3Location, variables: Variables): string | undefined {
  const names = [location.region, variables["AWS_REGION"], variables["AWS_DEFAULT_REGION"]];
  return names.find((name) => name !== undefined && name !== "");
}

/** Those of a credentials file; `undefined` leaves it to the SDK, which knows the environment. */
function s3CredentialsOf(location: S3Location, variables: Variables): S3Credentials | undefined {
  if (location.credentialsFile === undefined) return undefined;
  const accessKeyId = variables["AWS_ACCESS_KEY_ID"] ?? "";
  const secretAccessKey = variables["AWS_SECRET_ACCESS_KEY"] ?? "";
  const sessionToken = variables["AWS_SESSION_TOKEN"];
  if (accessKeyId === "" || secretAccessKey === "") {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot use credentials file "${location.credentialsFile}": it must hold AWS_ACCESS_KEY_ID and ` +
        "AWS_SECRET_ACCESS_KEY",
    );
  }
  return {
    accessKeyId,
    secretAccessKey,
    ...(sessionToken === undefined ? {} : { sessionToken }),
  };
}
