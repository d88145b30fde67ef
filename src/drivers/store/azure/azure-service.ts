/** Requests to one container of Azure Blob Storage; internal to this folder. */
import type { ContainerClient } from "@azure/storage-blob";
import type { Readable } from "node:stream";

import type {
  Attempt,
  BlobInfo,
  BlobPage,
  BlobRead,
  BlobService,
  HttpRange,
} from "../cloud/blob-service.ts";
import { RequestFailure } from "../cloud/blob-service.ts";
import { openRead } from "../cloud/read-chunks.ts";
import type { UploadBody } from "../cloud/upload-body.ts";
import { isBlobNotFound, isConditionFailure, toAzureFailure } from "./azure-failures.ts";

const pageKeysMax = 1000;
/** Names of metadata must be identifiers of C#. */
const putIdName = "kluisput";

/** The requests of a store to one container. */
export class AzureService implements BlobService {
  readonly location: string;
  readonly #container: ContainerClient;

  constructor(container: ContainerClient, location: string) {
    this.#container = container;
    this.location = location;
  }

  async put(
    key: string,
    { body, putId }: { readonly body: UploadBody; readonly putId: string },
    { signal, onProgress }: Attempt,
  ): Promise<boolean> {
    const stream = body.open(onProgress);
    try {
      await this.#container.getBlockBlobClient(key).upload(() => stream, body.sizeBytes, {
        abortSignal: signal,
        conditions: { ifNoneMatch: "*" },
        metadata: { [putIdName]: putId },
        transactionalContentMD5: body.digest("md5"),
      });
      return true;
    } catch (error) {
      if (isConditionFailure(error)) return false;
      throw toAzureFailure(error);
    } finally {
      stream.destroy();
    }
  }

  async get(key: string, range: HttpRange | undefined, attempt: Attempt): Promise<BlobRead> {
    const blob = this.#container.getBlobClient(key);
    const count = range === undefined ? undefined : range.last - range.first + 1;
    const answer = await translated(
      blob.download(range?.first ?? 0, count, {
        abortSignal: attempt.signal,
        maxRetryRequests: 0,
      }),
    );
    return openRead(
      {
        body: answer.readableStreamBody as Readable | undefined,
        lengthBytes: answer.contentLength,
        contentRange: answer.contentRange,
      },
      { attempt, toFailure: toBodyFailure },
    );
  }

  async stat(key: string, { signal }: Attempt): Promise<BlobInfo | undefined> {
    try {
      const answer = await this.#container.getBlobClient(key).getProperties({
        abortSignal: signal,
      });
      if (answer.contentLength === undefined) {
        throw new RequestFailure("unavailable", "the answer has no length");
      }
      return { sizeBytes: answer.contentLength, putId: answer.metadata?.[putIdName] };
    } catch (error) {
      if (isBlobNotFound(error)) return undefined;
      throw toAzureFailure(error);
    }
  }

  async listPage(
    prefix: string,
    token: string | undefined,
    { signal }: Attempt,
  ): Promise<BlobPage> {
    const pages = this.#container.listBlobsFlat({ prefix, abortSignal: signal }).byPage({
      maxPageSize: pageKeysMax,
      ...(token === undefined ? {} : { continuationToken: token }),
    });
    const { value, done } = await translated(pages.next());
    if (done === true || value === undefined) {
      throw new RequestFailure("unavailable", "the listing has no page");
    }
    const blobs = value.segment.blobItems.map(({ name, properties }) => {
      const sizeBytes = properties.contentLength;
      if (sizeBytes !== undefined) return { name, sizeBytes };
      throw new RequestFailure("unavailable", "the listing lacks a size");
    });
    return { blobs, next: value.continuationToken === "" ? undefined : value.continuationToken };
  }

  async remove(key: string, { signal }: Attempt): Promise<void> {
    try {
      await this.#container.getBlobClient(key).delete({
        abortSignal: signal,
        deleteSnapshots: "include",
      });
    } catch (error) {
      if (!isBlobNotFound(error)) throw toAzureFailure(error);
    }
  }

  /** Versions that an account keeps cost what they hold, some bytes, and hide nothing. */
  async removeVersions(): Promise<void> {}
}

async function translated<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw toAzureFailure(error);
  }
}

/** A body that broke off comes as any kind of error. */
function toBodyFailure(error: unknown): unknown {
  const failure = toAzureFailure(error);
  if (failure instanceof RequestFailure || !(failure instanceof Error)) return failure;
  return new RequestFailure("unavailable", "the answer broke off");
}
