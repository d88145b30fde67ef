/** Requests to one bucket of S3; internal to this folder. */
import {
  DeleteObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  type S3Client,
} from "@aws-sdk/client-s3";

import type {
  Attempt,
  BlobInfo,
  BlobPage,
  BlobRead,
  BlobService,
  HttpRange,
} from "../cloud/blob-service.ts";
import { RequestFailure } from "../cloud/blob-service.ts";
import type { UploadBody } from "../cloud/upload-body.ts";
import { isConditionFailure, isHeadNotFound, toS3Failure } from "./s3-failures.ts";
import { sendGet, sendPut, translated } from "./s3-requests.ts";

const pageKeysMax = 1000;
const putIdName = "kluis-put";

/** The requests of a store to the bucket `bucket`. */
export class S3Service implements BlobService {
  readonly location: string;
  readonly #client: S3Client;
  readonly #bucket: string;

  constructor(client: S3Client, place: { readonly location: string; readonly bucket: string }) {
    this.#client = client;
    this.location = place.location;
    this.#bucket = place.bucket;
  }

  async put(
    key: string,
    { body, putId }: { readonly body: UploadBody; readonly putId: string },
    attempt: Attempt,
  ): Promise<boolean> {
    const input = {
      Bucket: this.#bucket,
      Key: key,
      ChecksumSHA256: body.digest("sha256").toString("base64"),
      IfNoneMatch: "*",
      Metadata: { [putIdName]: putId },
    };
    try {
      await sendPut(this.#client, { ...input, body }, attempt);
      return true;
    } catch (error) {
      if (isConditionFailure(error)) return false;
      throw toS3Failure(error);
    }
  }

  async get(key: string, range: HttpRange | undefined, attempt: Attempt): Promise<BlobRead> {
    return await sendGet(this.#client, { Bucket: this.#bucket, Key: key }, range, attempt);
  }

  async stat(key: string, { signal }: Attempt): Promise<BlobInfo | undefined> {
    const command = new HeadObjectCommand({ Bucket: this.#bucket, Key: key });
    try {
      const answer = await this.#client.send(command, { abortSignal: signal });
      if (answer.ContentLength === undefined) {
        throw new RequestFailure("unavailable", "the answer has no length");
      }
      return { sizeBytes: answer.ContentLength, putId: answer.Metadata?.[putIdName] };
    } catch (error) {
      if (!isHeadNotFound(error)) throw toS3Failure(error);
    }
    await this.#assertBucket(signal);
    return undefined;
  }

  async listPage(
    prefix: string,
    token: string | undefined,
    { signal }: Attempt,
  ): Promise<BlobPage> {
    const answer = await translated(
      this.#client.send(
        new ListObjectsV2Command({
          Bucket: this.#bucket,
          Prefix: prefix,
          MaxKeys: pageKeysMax,
          ContinuationToken: token,
        }),
        { abortSignal: signal },
      ),
    );
    const blobs = (answer.Contents ?? []).map(({ Key, Size }) => {
      if (Key !== undefined && Size !== undefined) return { name: Key, sizeBytes: Size };
      throw new RequestFailure("unavailable", "the listing lacks a key or a size");
    });
    if (answer.IsTruncated !== true) return { blobs, next: undefined };
    if (answer.NextContinuationToken === undefined) {
      throw new RequestFailure("unavailable", "the listing says that it goes on, but not how");
    }
    return { blobs, next: answer.NextContinuationToken };
  }

  async remove(key: string, { signal }: Attempt): Promise<void> {
    const command = new DeleteObjectCommand({ Bucket: this.#bucket, Key: key });
    await translated(this.#client.send(command, { abortSignal: signal }));
  }

  /** One page: a probe leaves fewer. Where versions may not be listed or removed they stay. */
  async removeVersions(key: string, { signal }: Attempt): Promise<void> {
    const place = { Bucket: this.#bucket, Prefix: key };
    try {
      const found = await this.#client.send(new ListObjectVersionsCommand(place), {
        abortSignal: signal,
      });
      for (const { Key, VersionId } of [
        ...(found.Versions ?? []),
        ...(found.DeleteMarkers ?? []),
      ]) {
        if (Key !== key || VersionId === undefined) continue;
        const version = { Bucket: this.#bucket, Key, VersionId };
        await this.#client.send(new DeleteObjectCommand(version), { abortSignal: signal });
      }
    } catch (error) {
      const failure = toS3Failure(error);
      if (failure instanceof RequestFailure && failure.kind !== "unavailable") return;
      throw failure;
    }
  }

  /** HEAD of an object says the same where there is no bucket. */
  async #assertBucket(signal: AbortSignal): Promise<void> {
    const command = new HeadBucketCommand({ Bucket: this.#bucket });
    try {
      await this.#client.send(command, { abortSignal: signal });
    } catch (error) {
      if (isHeadNotFound(error)) {
        throw new RequestFailure("no-store", "there is no such bucket");
      }
      throw toS3Failure(error);
    }
  }
}
