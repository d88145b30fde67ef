/** A store in a bucket of S3, or of anything that speaks it. See docs/adr/0007-cloud-stores.md. */
import { S3Client, type S3ClientConfig } from "@aws-sdk/client-s3";
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";

import type { Clock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { CloudStore } from "./cloud/cloud-store.ts";
import { requestsInFlightMax } from "./cloud/requests.ts";
import { S3Service } from "./s3/s3-service.ts";
import type { S3Location } from "./store-location.ts";

/** Longest time until a connection stands. */
const connectMaxMs = 10_000;

/** An access key; its session token where it is a temporary one. */
export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** How an S3 store is opened. */
export interface S3StoreOptions {
  /** Without them those that the AWS SDK finds: environment, profile, web identity, instance role. */
  readonly credentials?: S3Credentials;
  /** Refuses a prefix that holds foreign objects. */
  readonly create?: boolean;
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
  readonly random?: RandomSource;
}

/**
 * Opens the store at `location`. Nothing is sent, unless `create` is given: then its first page of
 * objects is looked at. The bucket must be there.
 *
 * Errors with `create`: StoreForeign, StoreNotFound, StoreDenied (after-change), StoreUnavailable.
 */
export async function openS3Store(
  location: S3Location,
  options: S3StoreOptions = {},
): Promise<ObjectStore> {
  const { bucket, prefix, text } = location;
  const service = new S3Service(createS3Client(location, options), { location: text, bucket });
  const store = new CloudStore({ service, prefix, ...options });
  if (options.create === true) await store.assertNoForeignBlobs(options.signal);
  return store;
}

/** A client for the bucket at `location`, without retries of its own. */
export function createS3Client(location: S3Location, options: S3StoreOptions): S3Client {
  const { profile, endpoint } = location;
  // A server that is not Amazon's has one region, mostly, and that by this name.
  const region = location.region ?? (endpoint === undefined ? undefined : "us-east-1");
  const agentOptions = { keepAlive: true, maxSockets: requestsInFlightMax };
  const config: S3ClientConfig = {
    maxAttempts: 1,
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    followRegionRedirects: false,
    logger: silent,
    requestHandler: {
      connectionTimeout: connectMaxMs,
      httpAgent: new HttpAgent(agentOptions),
      httpsAgent: new HttpsAgent(agentOptions),
    },
    forcePathStyle: location.isPathStyle ?? endpoint !== undefined,
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
    ...(profile === undefined ? {} : { profile }),
    ...(region === undefined ? {} : { region }),
    ...(endpoint === undefined ? {} : { endpoint }),
  };
  return new S3Client(config);
}

/** The SDK would write warnings of its own to the terminal; errors say all that matters. */
const silent = {
  trace: ignore,
  debug: ignore,
  info: ignore,
  warn: ignore,
  error: ignore,
};

function ignore(): void {}
