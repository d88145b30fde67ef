/** Opens the store that a user names, with the credentials that the host has for it. */
import { KluisError } from "#base/kluis-error.ts";
import type { S3Credentials } from "#drivers/store/s3-store.ts";
import type { AzureLocation, S3Location } from "#drivers/store/store-location.ts";
import type { ObjectStore } from "#ports/object-store.ts";

/** What a store takes from the process. */
export interface StoreHost {
  /** What relative paths are taken from. */
  readonly workingFolder: string;
  readonly variables: Variables;
  readonly signal: AbortSignal;
}

type Variables = Readonly<Record<string, string | undefined>>;

/** Opens the store at `place`, as the user wrote it. Errors: ArgumentInvalid, Store*. */
export async function openStore(
  place: string,
  host: StoreHost & { readonly create: boolean },
): Promise<ObjectStore> {
  const { parseStoreLocation } = await import("#drivers/store/store-location.ts");
  const location = parseStoreLocation(place, host.workingFolder);
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
    return await openS3Store(named, { create, signal, ...(credentials && { credentials }) });
  }
  const { openAzureStore } = await import("#drivers/store/azure-store.ts");
  const credentials = {
    connectionString: variables["AZURE_STORAGE_CONNECTION_STRING"],
    accountKey: variables["AZURE_STORAGE_KEY"],
    sasToken: variables["AZURE_STORAGE_SAS_TOKEN"],
  };
  return await openAzureStore(location, { create, signal, credentials });
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
