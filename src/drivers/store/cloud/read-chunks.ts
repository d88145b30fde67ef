/** The body of an answer as it comes in; internal to this folder. */
import type { Readable } from "node:stream";

import { type Attempt, type BlobRead, RequestFailure } from "./blob-service.ts";
import { parseContentRange } from "./content-range.ts";

/** How a body is read. */
export interface ReadChunksOptions {
  readonly attempt: Attempt;
  /** The failure for what the stream threw. */
  readonly toFailure: (error: unknown) => unknown;
}

/** What a client gives of an answer to a read. */
export interface ReadAnswer {
  readonly body: Readable | undefined;
  /** `Content-Length`. */
  readonly lengthBytes: number | undefined;
  /** `Content-Range`. */
  readonly contentRange: string | undefined;
}

/** The answer as the store takes it; its body is given up where that fails. */
export function openRead(answer: ReadAnswer, options: ReadChunksOptions): BlobRead {
  const { body, lengthBytes, contentRange } = answer;
  try {
    if (body === undefined || lengthBytes === undefined) {
      throw new RequestFailure("unavailable", "the answer has no length");
    }
    const whole = { offsetBytes: 0, sizeBytes: lengthBytes };
    return {
      ...(parseContentRange(contentRange) ?? whole),
      lengthBytes,
      chunks: readChunks(body, options),
      close: () => void body.destroy(),
    };
  } catch (error) {
    body?.destroy();
    throw error;
  }
}

/** The chunks of `body`, which is destroyed when they are not wanted any more or the attempt ends. */
async function* readChunks(body: Readable, options: ReadChunksOptions): AsyncGenerator<Uint8Array> {
  const { attempt, toFailure } = options;
  const onAbort = (): void => void body.destroy(attempt.signal.reason as Error);
  attempt.signal.addEventListener("abort", onAbort, { once: true });
  try {
    if (attempt.signal.aborted) onAbort();
    for await (const chunk of body) {
      attempt.onProgress();
      yield chunk as Uint8Array;
    }
  } catch (error) {
    throw toFailure(error);
  } finally {
    attempt.signal.removeEventListener("abort", onAbort);
    body.destroy();
  }
}
