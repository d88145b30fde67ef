/** A real implementation of Azure Blob Storage for tests: Azurite, with everything in memory. */
import { BlobServiceClient } from "@azure/storage-blob";
import { createRequire } from "node:module";

import { spawnDaemon } from "#drivers/process/daemon.ts";
import { findFreePort } from "./free-port.ts";
import { createTempFolder } from "./temp-folder.ts";

const readyTimeoutMs = 60_000;

/** The account that every Azurite has; its key is in its manual. */
const account = "devstoreaccount1";
const accountKey =
  "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/** A running Azurite. */
export interface Azurite extends AsyncDisposable {
  readonly port: number;
  /** `http://127.0.0.1:PORT/devstoreaccount1`. */
  readonly endpoint: string;
  readonly account: string;
  /** Base64. */
  readonly accountKey: string;
  readonly connectionString: string;
  /** How long it took to start. */
  readonly startedInMs: number;
  createContainer(name: string): Promise<void>;
  /** A client for what the store port has no method for. */
  readonly client: BlobServiceClient;
}

/** Starts Azurite and waits until it answers. Disposing ends it and removes everything. */
export async function startAzurite(): Promise<Azurite> {
  const startedMs = performance.now();
  const stack = new AsyncDisposableStack();
  try {
    const folder = stack.use(await createTempFolder()).path;
    const port = await findFreePort();
    const endpoint = `http://127.0.0.1:${port}/${account}`;
    const connectionString =
      `DefaultEndpointsProtocol=http;AccountName=${account};AccountKey=${accountKey};` +
      `BlobEndpoint=${endpoint};`;
    const client = BlobServiceClient.fromConnectionString(connectionString, {
      retryOptions: { maxTries: 1 },
    });
    const program = createRequire(import.meta.url).resolve("azurite/dist/src/blob/main.js");
    const place = ["--blobHost", "127.0.0.1", "--blobPort", String(port)];
    const quiet = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"];
    const daemon = await spawnDaemon(
      process.execPath,
      [program, ...place, ...quiet, "--inMemoryPersistence"],
      { cwd: folder, readyTimeoutMs, stopGraceMs: 1, isReady: () => answers(client) },
    );
    stack.use(daemon);
    const owned = stack.move();
    return {
      port,
      endpoint,
      account,
      accountKey,
      connectionString,
      client,
      startedInMs: performance.now() - startedMs,
      createContainer: async (name) => {
        await client.createContainer(name);
      },
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    };
  } finally {
    await stack.disposeAsync();
  }
}

async function answers(client: BlobServiceClient): Promise<boolean> {
  try {
    await client.getProperties();
    return true;
  } catch {
    // Not listening yet; the limit of the start ends the wait.
    return false;
  }
}
