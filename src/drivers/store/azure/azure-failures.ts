/** What errors of Azure Blob Storage and of the way there mean; internal to this folder. */
import { RestError } from "@azure/storage-blob";

import { RequestFailure, type FailureKind } from "../cloud/blob-service.ts";
import { connectionReason, failureOfStatus, parseRetryAfterMs } from "../cloud/http-failures.ts";

const kinds: Readonly<Record<string, readonly [FailureKind, string]>> = {
  BlobNotFound: ["missing", "it is not in the store"],
  ContainerNotFound: ["no-store", "there is no such container"],
  ContainerBeingDeleted: ["no-store", "the container is being deleted"],
  InvalidRange: ["range", "the range lies past its end"],
  AuthenticationFailed: ["denied", "the key or the SAS token is wrong, or has expired"],
  NoAuthenticationInformation: ["denied", "the store wants credentials"],
  AuthorizationFailure: ["denied", "access is denied"],
  AuthorizationPermissionMismatch: ["denied", "the credentials do not allow this"],
  AuthorizationResourceTypeMismatch: ["denied", "the SAS token is not for blobs"],
  InsufficientAccountPermissions: ["denied", "the credentials do not allow this"],
  AccountIsDisabled: ["denied", "the account is disabled"],
  BlobArchived: ["denied", "the object lies in an archive and must be brought back first"],
  BlobImmutableDueToPolicy: ["denied", "an immutability policy holds it"],
  Md5Mismatch: ["unavailable", "the content was damaged on its way"],
  ServerBusy: ["unavailable", "the store is busy"],
  OperationTimedOut: ["unavailable", "the store took too long"],
};

/** The service's words for a put that met an object of that name. */
const existsCodes = new Set(["BlobAlreadyExists", "ConditionNotMet", "UnauthorizedBlobOverwrite"]);

/** Whether the condition of a put was not met: an object of that key is there. */
export function isConditionFailure(error: unknown): boolean {
  return error instanceof RestError && existsCodes.has(codeOf(error) ?? "");
}

/** Whether the service says that the blob, not its container, is absent. */
export function isBlobNotFound(error: unknown): boolean {
  return error instanceof RestError && codeOf(error) === "BlobNotFound";
}

/** The failure for whatever the client threw. Nothing of the request gets into it. */
export function toAzureFailure(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof RequestFailure) return error;
  const reason = connectionReason(error);
  if (!(error instanceof RestError) || error.statusCode === undefined) {
    if (reason !== undefined) return new RequestFailure("unavailable", reason);
    const isNoAnswer = error instanceof RestError;
    return isNoAnswer ? new RequestFailure("unavailable", "the store did not answer") : error;
  }
  const code = codeOf(error) ?? "";
  const retryAfterMs = parseRetryAfterMs(error.response?.headers.get("retry-after"));
  const known = kinds[code];
  if (known !== undefined) return new RequestFailure(...known, retryAfterMs);
  return failureOfStatus({ status: error.statusCode, code, retryAfterMs });
}

/** The header also says it where an answer has no body. */
function codeOf(error: RestError): string | undefined {
  return error.response?.headers.get("x-ms-error-code") ?? error.code;
}
