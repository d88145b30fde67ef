/** What errors of S3 and of the way there mean; internal to this folder. */
import { RequestFailure, type FailureKind } from "../cloud/blob-service.ts";
import { connectionReason, failureOfStatus, parseRetryAfterMs } from "../cloud/http-failures.ts";

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
  PermanentRedirect: ["argument", "the bucket lies in another region; name it with region="],
  AuthorizationHeaderMalformed: ["argument", "the region is wrong; name it with region="],
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
  // Both Amazon and radosgw say it in words alone.
  if (error.name === "AccessDenied" && /object lock/i.test(error.message)) {
    return new RequestFailure("locked", "it is locked");
  }
  const known = kinds[error.name];
  if (known !== undefined) return new RequestFailure(...known, retryAfterOf(error));
  if (error.message === "Region is missing") {
    return new RequestFailure("argument", "no region is named; add region= or set AWS_REGION");
  }
  if (status === undefined) {
    const reason = connectionReason(error);
    return reason === undefined ? error : new RequestFailure("unavailable", reason);
  }
  return failureOfStatus({ status, code: error.name, retryAfterMs: retryAfterOf(error) });
}

function statusOf(error: Error): number | undefined {
  return (error as unknown as SdkError).$metadata?.httpStatusCode;
}

function retryAfterOf(error: Error): number | undefined {
  return parseRetryAfterMs((error as unknown as SdkError).$response?.headers?.["retry-after"]);
}
