/** What errors of S3 and of the way there mean; internal to this folder. */
import { RequestFailure, type FailureKind } from "../cloud/blob-service.ts";
import { connectionReason, parseRetryAfterMs } from "../cloud/http-failures.ts";

const kinds: Readonly<Record<string, readonly [FailureKind, string]>> = {
  NoSuchKey: ["missing", "it is not in the store"],
  NoSuchBucket: ["no-store", "there is no such bucket"],
  InvalidRange: ["range", "the range lies past its end"],
  QuotaExceeded: ["no-space", "the quota is used up"],
  AccessDenied: ["denied", "access is denied"],
  InvalidAccessKeyId: ["denied", "the access key is not known"],
  SignatureDoesNotMatch: ["denied", "the secret key is wrong"],
  ExpiredToken: ["denied", "the session token has expired"],
  InvalidToken: ["denied", "the session token is not valid"],
  RequestTimeTooSkewed: ["denied", "the clocks of this host and the store differ too much"],
  InvalidObjectState: ["denied", "the object lies in an archive and must be brought back first"],
  CredentialsProviderError: ["denied", "no credentials were found"],
  PermanentRedirect: ["unsupported", "the bucket lies in another region; name it with region="],
  AuthorizationHeaderMalformed: ["unsupported", "the region is wrong; name it with region="],
  NotImplemented: ["unsupported", "the store does not know this request"],
  // A body that was damaged on its way.
  BadDigest: ["unavailable", "the content was damaged on its way"],
  XAmzContentSHA256Mismatch: ["unavailable", "the content was damaged on its way"],
  IncompleteBody: ["unavailable", "the content was cut off on its way"],
  RequestTimeout: ["unavailable", "the store waited too long for the content"],
  // Another writer of the same key was under way.
  ConditionalRequestConflict: ["unavailable", "another writer was under way"],
  OperationAborted: ["unavailable", "another writer was under way"],
};

/** The part of an error of the AWS SDK that is looked at. */
interface SdkError {
  readonly name: string;
  readonly code?: unknown;
  readonly $metadata?: { readonly httpStatusCode?: number };
  readonly $response?: { readonly headers?: Readonly<Record<string, string>> };
}

/** Whether the condition of a put was not met: an object of that key is there. */
export function isConditionFailure(error: unknown): boolean {
  return error instanceof Error && statusOf(error) === 412;
}

/** Whether an error says that a key or a bucket is absent; an answer to HEAD does not say which. */
export function isHeadNotFound(error: unknown): boolean {
  return error instanceof Error && statusOf(error) === 404 && error.name !== "NoSuchBucket";
}

/** The failure for whatever the SDK threw. Nothing of the request gets into it. */
export function toS3Failure(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof RequestFailure) return error;
  const status = statusOf(error);
  const known = kinds[error.name];
  if (known !== undefined) return new RequestFailure(...known, retryAfterOf(error));
  if (error.message === "Region is missing") {
    return new RequestFailure("unsupported", "no region is named; add region= or set AWS_REGION");
  }
  if (status === undefined) {
    const reason = connectionReason(error);
    return reason === undefined ? error : new RequestFailure("unavailable", reason);
  }
  const reason = `the store answered ${status} ${safeName(error.name)}`;
  if (status === 401 || status === 403) return new RequestFailure("denied", reason);
  if (status === 507) return new RequestFailure("no-space", reason);
  if (status === 501) return new RequestFailure("unsupported", reason);
  const isTransient = status >= 500 || status === 408 || status === 429 || status < 300;
  return new RequestFailure(
    isTransient ? "unavailable" : "unsupported",
    reason,
    retryAfterOf(error),
  );
}

function statusOf(error: Error): number | undefined {
  return (error as unknown as SdkError).$metadata?.httpStatusCode;
}

function retryAfterOf(error: Error): number | undefined {
  return parseRetryAfterMs((error as unknown as SdkError).$response?.headers?.["retry-after"]);
}

/** A server may call its error anything. */
function safeName(name: string): string {
  return /^[A-Za-z0-9]{1,60}$/.test(name) ? name : "";
}
