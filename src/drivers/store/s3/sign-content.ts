/** Signs the digest of a put's content with the request; internal to this folder. */
import type { PutObjectCommand } from "@aws-sdk/client-s3";

import { toHex } from "#base/bytes.ts";

/** Makes the SHA-256 of the content a part of the signature: the one checksum that every S3 verifies. */
export function signContent(command: PutObjectCommand, digest: Uint8Array): void {
  command.middlewareStack.add(
    (next) => (args) => {
      const { headers } = args.request as { headers: Record<string, string> };
      headers["x-amz-content-sha256"] = toHex(digest);
      return next(args);
    },
    { step: "build", name: "signedContentDigest" },
  );
}
