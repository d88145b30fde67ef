/**
 * What a cloud store needs of a service: six requests, each one attempt without retries; internal to
 * this folder. Errors are {@link RequestFailure}.
 */
import type { ObjectInfo } from "#ports/object-store.ts";
import type { UploadBody } from "./upload-body.ts";

/** What one attempt gets from outside. */
export interface Attempt {
  /** Aborts when the caller gives up, and when nothing moves for too long. */
  readonly signal: AbortSignal;
  /** To be called whenever bytes move. */
  readonly onProgress: () => void;
}

/** A blob that is there. */
export interface BlobInfo {
  readonly sizeBytes: number;
  /** The tag of the put that made it; `undefined` where it was made by something else. */
  readonly putId: string | undefined;
}

/** The answer to a read: what the service says it is, and its bytes. */
export interface BlobRead {
  /** Size of the whole blob. */
  readonly sizeBytes: number;
  /** Where the bytes lie in it. */
  readonly offsetBytes: number;
  /** How many bytes the service announced. */
  readonly lengthBytes: number;
  readonly chunks: AsyncIterable<Uint8Array>;
  /** Gives up what has not been read; must be called in any case. */
  readonly close: () => void;
}

/** An inclusive range as HTTP has it. */
export interface HttpRange {
  readonly first: number;
  readonly last: number;
}

/** One page of a listing, ascending by key. */
export interface BlobPage {
  readonly blobs: readonly ObjectInfo[];
  /** What to ask the next page with; `undefined` after the last. */
  readonly next: string | undefined;
}

/** One bucket or container. Keys are as the service has them, with the vault's prefix. */
export interface BlobService {
  /** Where it is, for messages; no credential. */
  readonly location: string;
  /** Writes the blob if none of that key exists, and keeps `putId` with it. `false`: there is one. */
  put(
    key: string,
    content: { body: UploadBody; putId: string },
    attempt: Attempt,
  ): Promise<boolean>;
  /** Failure `missing` where there is none, `range` where it starts past the end. */
  get(key: string, range: HttpRange | undefined, attempt: Attempt): Promise<BlobRead>;
  stat(key: string, attempt: Attempt): Promise<BlobInfo | undefined>;
  listPage(prefix: string, token: string | undefined, attempt: Attempt): Promise<BlobPage>;
  /** No error where there is none. */
  remove(key: string, attempt: Attempt): Promise<void>;
  /** Removes what older versions of a blob the service keeps, where it does. */
  removeVersions(key: string, attempt: Attempt): Promise<void>;
}

/** One version of a blob; a delete marker holds nothing. */
export interface BlobVersion {
  readonly name: string;
  readonly versionId: string;
  readonly sizeBytes: number;
  readonly isMarker: boolean;
  /** When the service took it, by its clock; milliseconds since 1970. */
  readonly putMs: number;
}

/** One page of a listing of versions: ascending by key, the newest of a key first. */
export interface VersionPage {
  readonly versions: readonly BlobVersion[];
  readonly next: VersionToken | undefined;
}

/** Where the next page of a listing of versions begins. */
export interface VersionToken {
  readonly key: string;
  readonly versionId: string | undefined;
}

/** Names one version. */
export interface VersionId {
  readonly key: string;
  readonly versionId: string;
}

/** One bucket that keeps all versions, and locks them. Times are milliseconds since 1970. */
export interface LockService {
  readonly location: string;
  /** Whether objects of the bucket can be locked. */
  hasLocks(attempt: Attempt): Promise<boolean>;
  /** The service's time. */
  readClock(attempt: Attempt): Promise<number>;
  /** Puts one more version, locked until then in a mode that nobody can undo; returns its id. */
  putLocked(
    key: string,
    content: { readonly body: UploadBody; readonly untilMs: number },
    attempt: Attempt,
  ): Promise<string>;
  getVersion(at: VersionId, range: HttpRange | undefined, attempt: Attempt): Promise<BlobRead>;
  listVersions(
    prefix: string,
    token: VersionToken | undefined,
    attempt: Attempt,
  ): Promise<VersionPage>;
  /** When its lock ends; 0 where it has none of that mode. Failure `missing`. */
  lockEnd(at: VersionId, attempt: Attempt): Promise<number>;
  /** Failure `denied` where the lock ends later already, `missing`. */
  extendLock(at: VersionId, untilMs: number, attempt: Attempt): Promise<void>;
  /** Failure `locked`; no error where there is none. */
  removeVersion(at: VersionId, attempt: Attempt): Promise<void>;
}

/** What a failed request means. */
export type FailureKind =
  /** No answer, a broken one, or one that asks to try again. */
  | "unavailable"
  /** The blob is not there. */
  | "missing"
  /** The bucket or container is not there. */
  | "no-store"
  /** The range starts past the end. */
  | "range"
  | "denied"
  /** The blob is locked against removal. */
  | "locked"
  | "no-space"
  /** The user named the wrong region or bucket. */
  | "argument"
  /** The service does not know what was asked for. */
  | "unsupported";

/** A request that failed. The message is a reason without a secret: no URL, no header. */
export class RequestFailure extends Error {
  override readonly name = "RequestFailure";
  readonly kind: FailureKind;
  /** How long the service asked to be left alone. */
  readonly retryAfterMs: number | undefined;

  constructor(kind: FailureKind, reason: string, retryAfterMs?: number) {
    super(reason);
    this.kind = kind;
    this.retryAfterMs = retryAfterMs;
  }
}
