/** Requests to one bucket of S3 with object lock; internal to this folder. */
import {
  DeleteObjectCommand,
  GetObjectLockConfigurationCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectVersionsCommand,
  PutObjectRetentionCommand,
  type S3Client,
} from "@aws-sdk/client-s3";

import {
  type Attempt,
  type BlobRead,
  type BlobVersion,
  type HttpRange,
  type LockService,
  RequestFailure,
  type VersionId,
  type VersionPage,
  type VersionToken,
} from "../cloud/blob-service.ts";
import type { UploadBody } from "../cloud/upload-body.ts";
import { isHeadNotFound, toS3Failure } from "./s3-failures.ts";
import { sendGet, sendPut, translated } from "./s3-requests.ts";

const pageKeysMax = 1000;

/** The requests of a locked place to the bucket `bucket`. */
export class S3LockService implements LockService {
  readonly location: string;
  readonly #client: S3Client;
  readonly #bucket: string;

  constructor(client: S3Client, place: { readonly location: string; readonly bucket: string }) {
    this.#client = client;
    this.location = place.location;
    this.#bucket = place.bucket;
  }

  async hasLocks({ signal }: Attempt): Promise<boolean> {
    const command = new GetObjectLockConfigurationCommand({ Bucket: this.#bucket });
    try {
      const answer = await this.#client.send(command, { abortSignal: signal });
      return answer.ObjectLockConfiguration?.ObjectLockEnabled === "Enabled";
    } catch (error) {
      const isPlain =
        error instanceof Error && error.name === "ObjectLockConfigurationNotFoundError";
      if (isPlain) return false;
      throw toS3Failure(error);
    }
  }

  async readClock({ signal }: Attempt): Promise<number> {
    let date: string | undefined;
    const command = new HeadBucketCommand({ Bucket: this.#bucket });
    command.middlewareStack.add(
      (next) => async (args) => {
        const result = await next(args);
        const { headers } = result.response as { headers?: Record<string, string> };
        date = headers?.["date"];
        return result;
      },
      { step: "deserialize", priority: "low", name: "clockOfTheStore" },
    );
    try {
      await this.#client.send(command, { abortSignal: signal });
    } catch (error) {
      if (isHeadNotFound(error)) throw new RequestFailure("no-store", "there is no such bucket");
      throw toS3Failure(error);
    }
    const timeMs = Date.parse(date ?? "");
    if (Number.isFinite(timeMs)) return timeMs;
    throw new RequestFailure("unsupported", "the store does not tell its time");
  }

  async putLocked(
    key: string,
    { body, untilMs }: { readonly body: UploadBody; readonly untilMs: number },
    attempt: Attempt,
  ): Promise<string> {
    const input = {
      Bucket: this.#bucket,
      Key: key,
      // Amazon wants one of its own checksums or this one on every put with a lock.
      ContentMD5: body.digest("md5").toString("base64"),
      ObjectLockMode: "COMPLIANCE" as const,
      ObjectLockRetainUntilDate: new Date(untilMs),
    };
    const { VersionId } = await translated(sendPut(this.#client, { ...input, body }, attempt));
    if (VersionId !== undefined) return VersionId;
    throw new RequestFailure("unsupported", "the bucket keeps no versions");
  }

  async getVersion(
    { key, versionId }: VersionId,
    range: HttpRange | undefined,
    attempt: Attempt,
  ): Promise<BlobRead> {
    const version = { Bucket: this.#bucket, Key: key, VersionId: versionId };
    return await sendGet(this.#client, version, range, attempt);
  }

  async listVersions(
    prefix: string,
    token: VersionToken | undefined,
    { signal }: Attempt,
  ): Promise<VersionPage> {
    const command = new ListObjectVersionsCommand({
      Bucket: this.#bucket,
      Prefix: prefix,
      MaxKeys: pageKeysMax,
      KeyMarker: token?.key,
      VersionIdMarker: token?.versionId,
    });
    const answer = await translated(this.#client.send(command, { abortSignal: signal }));
    const versions = (answer.Versions ?? []).map((one) => toVersion(one, false));
    for (const one of answer.DeleteMarkers ?? []) versions.push(toVersion(one, true));
    if (answer.IsTruncated !== true) return { versions, next: undefined };
    const { NextKeyMarker, NextVersionIdMarker } = answer;
    if (NextKeyMarker === undefined) {
      throw new RequestFailure("unavailable", "the listing says that it goes on, but not how");
    }
    return { versions, next: { key: NextKeyMarker, versionId: NextVersionIdMarker } };
  }

  async lockEnd({ key, versionId }: VersionId, { signal }: Attempt): Promise<number> {
    const command = new HeadObjectCommand({
      Bucket: this.#bucket,
      Key: key,
      VersionId: versionId,
    });
    try {
      const answer = await this.#client.send(command, { abortSignal: signal });
      const until = answer.ObjectLockRetainUntilDate;
      return answer.ObjectLockMode === "COMPLIANCE" ? (until?.getTime() ?? 0) : 0;
    } catch (error) {
      if (isHeadNotFound(error)) throw new RequestFailure("missing", "it is not in the store");
      throw toS3Failure(error);
    }
  }

  async extendLock(
    { key, versionId }: VersionId,
    untilMs: number,
    { signal }: Attempt,
  ): Promise<void> {
    const command = new PutObjectRetentionCommand({
      Bucket: this.#bucket,
      Key: key,
      VersionId: versionId,
      Retention: { Mode: "COMPLIANCE", RetainUntilDate: new Date(untilMs) },
    });
    await translated(this.#client.send(command, { abortSignal: signal }));
  }

  async removeVersion({ key, versionId }: VersionId, { signal }: Attempt): Promise<void> {
    const command = new DeleteObjectCommand({
      Bucket: this.#bucket,
      Key: key,
      VersionId: versionId,
    });
    await translated(this.#client.send(command, { abortSignal: signal }));
  }
}

/** The part of an entry of a listing that is looked at. */
interface ListedVersion {
  readonly Key?: string | undefined;
  readonly VersionId?: string | undefined;
  readonly Size?: number | undefined;
  readonly LastModified?: Date | undefined;
}

function toVersion(listed: ListedVersion, isMarker: boolean): BlobVersion {
  const { Key, VersionId, Size = 0, LastModified } = listed;
  if (Key === undefined || VersionId === undefined || LastModified === undefined) {
    throw new RequestFailure("unavailable", "the listing lacks a key, a version or a time");
  }
  return {
    name: Key,
    versionId: VersionId,
    sizeBytes: Size,
    isMarker,
    putMs: LastModified.getTime(),
  };
}
