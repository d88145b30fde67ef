/** The body of an answer as it comes in; internal to this folder. */
import type { Readable } from "node:stream";

import type { Attempt } from "./blob-service.ts";

/** How a body is read. */
export interface ReadChunksOptions {
  readonly attempt: Attempt;
  /** The failure for what the stream threw. */
  readonly toFailure: (error: unknown) => unknown;
}

/** The chunks of `body`, which is destroyed when they are not wanted any more or the attempt ends. */
export async function* readChunks(
  body: Readable,
  options: ReadChunksOptions,
): AsyncGenerator<Uint8Array> {
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
