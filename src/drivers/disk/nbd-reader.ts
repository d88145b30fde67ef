/** A disk behind an NBD server. */
import { nbdAllocationFlag } from "#formats/nbd-wire.ts";
import type { NbdClient } from "#drivers/nbd/nbd-client.ts";
import type { DiskReader, Extent } from "#ports/disk.ts";
import { alignExtents } from "./extents.ts";

/** What belongs to a disk behind NBD. */
export interface NbdReaderOptions {
  readonly client: NbdClient;
  /** What an error means, where the server is our own; by default what it says. */
  readonly translate?: (error: unknown) => Promise<unknown>;
  readonly assertUnchanged: () => Promise<void>;
  /** Closes the client and what stands behind it. */
  readonly close: () => Promise<void>;
}

/** A reader of an export; extents come from `base:allocation` where the server has it. */
export function createNbdReader(options: NbdReaderOptions): DiskReader {
  const { client } = options;
  const { sizeBytes } = client.info;
  let isOpen = true;
  return {
    sizeBytes,
    readsInFlight: client.requestsInFlight,
    async read(offsetBytes, target, signal) {
      try {
        await client.read(offsetBytes, target, signal);
      } catch (error) {
        throw (await options.translate?.(error)) ?? error;
      }
    },
    async *extents(signal) {
      try {
        yield* alignExtents(readAllocation(client, signal), sizeBytes);
      } catch (error) {
        throw (await options.translate?.(error)) ?? error;
      }
    },
    assertUnchanged: options.assertUnchanged,
    async [Symbol.asyncDispose]() {
      if (!isOpen) return;
      isOpen = false;
      await options.close();
    },
  };
}

/** The extents of the whole export. What is allocated and reads as zeros is `zero` as well. */
async function* readAllocation(
  client: NbdClient,
  signal: AbortSignal | undefined,
): AsyncGenerator<Extent, void> {
  const { metaContexts, sizeBytes } = client.info;
  const index = metaContexts.findIndex(({ name }) => name === "base:allocation");
  if (index < 0) {
    yield { offsetBytes: 0, lengthBytes: sizeBytes, kind: "data" };
    return;
  }
  let atBytes = 0;
  while (atBytes < sizeBytes) {
    const range = { offsetBytes: atBytes, lengthBytes: sizeBytes - atBytes };
    for (const { offsetBytes, lengthBytes, flags } of await client.blockStatus(range, signal)) {
      const isZero = ((flags[index] ?? 0) & nbdAllocationFlag.zero) !== 0;
      yield { offsetBytes, lengthBytes, kind: isZero ? "zero" : "data" };
      atBytes = offsetBytes + lengthBytes;
    }
  }
}
