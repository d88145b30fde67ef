/** Requests that both kinds of bucket make alike, plain and with object lock; internal to this folder. */
import type { Readable } from "node:stream";

import {
  GetObjectCommand,
  PutObjectCommand,
  type PutObjectCommandInput,
  type PutObjectCommandOutput,
  type S3Client,
} from "@aws-sdk/client-s3";

import { toHex } from "#base/bytes.ts";

import type { Attempt, BlobRead, HttpRange } from "../cloud/blob-service.ts";
import { openRead } from "../cloud/read-chunks.ts";
import type { UploadBody } from "../cloud/upload-body.ts";
import { toS3Failure } from "./s3-failures.ts";

/** Waits for a request; its error becomes a failure of the store. */
export async function translated<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw toS3Failure(error);
  }
}

/** Puts `body` as `input` says. Errors are the SDK's own, which tell a condition that failed. */
export async function sendPut(
  client: S3Client,
  { body, ...input }: PutObjectCommandInput & { readonly body: UploadBody },
  { signal, onProgress }: Attempt,
): Promise<PutObjectCommandOutput> {
  const digest = body.digest("sha256");
  const stream = body.open(onProgress);
  const command = new PutObjectCommand({
    ...input,
    Body: stream,
    ContentLength: body.sizeBytes,
    ContentType: "application/octet-stream",
  });
  signContent(command, digest);
  try {
    return await client.send(command, { abortSignal: signal });
  } finally {
    stream.destroy();
  }
}

/** Opens a read of an object, or of one version of it. */
export async function sendGet(
  client: S3Client,
  what: { readonly Bucket: string; readonly Key: string; readonly VersionId?: string },
  range: HttpRange | undefined,
  attempt: Attempt,
): Promise<BlobRead> {
  const command = new GetObjectCommand({
    ...what,
    ...(range === undefined ? {} : { Range: `bytes=${range.first}-${range.last}` }),
  });
  const answer = await translated(client.send(command, { abortSignal: attempt.signal }));
  return openRead(
    {
      body: answer.Body as Readable | undefined,
      lengthBytes: answer.ContentLength,
      contentRange: answer.ContentRange,
    },
    { attempt, toFailure: toS3Failure },
  );
}

/** Makes the SHA-256 of the content a part of the signature: the one checksum that every S3 verifies. */
function signContent(command: PutObjectCommand, digest: Uint8Array): void {
  command.middlewareStack.add(
    (next) => (args) => {
      const { headers } = args.request as { headers: Record<string, string> };
      headers["x-amz-content-sha256"] = toHex(digest);
      return next(args);
    },
    { step: "build", name: "signedContentDigest" },
  );
}
