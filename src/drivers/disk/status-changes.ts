/** Changed extents out of the block status of an export. */
import { assert } from "#base/assert.ts";
import type { NbdClient } from "#drivers/nbd/nbd-client.ts";
import { nbdAllocationFlag } from "#formats/nbd-wire.ts";
import type { ChangedExtents } from "#ports/disk.ts";
import { ChangeCollector } from "./extents.ts";

/** Most extents of one answer, about 400 MB; see {@link ChangeCollector} for what comes beyond. */
export const CHANGED_EXTENTS_MAX = 4_000_000;

/** Which meta context tells of changes, and by which values. */
export interface ChangeContext {
  readonly context: string;
  readonly isChanged: (flags: number) => boolean;
}

/**
 * Everything of an export that the context calls changed; as `zero` where `base:allocation` says
 * that it reads as zeros. The client has selected the context; without `base:allocation` all is data.
 */
export async function collectChanges(
  client: NbdClient,
  { context, isChanged }: ChangeContext,
  signal?: AbortSignal,
): Promise<ChangedExtents> {
  const { metaContexts, sizeBytes } = client.info;
  const allocation = metaContexts.findIndex(({ name }) => name === "base:allocation");
  const change = metaContexts.findIndex(({ name }) => name === context);
  assert(change >= 0, "the context was selected");
  const collector = new ChangeCollector(sizeBytes, CHANGED_EXTENTS_MAX);
  let atBytes = 0;
  while (atBytes < sizeBytes) {
    const range = { offsetBytes: atBytes, lengthBytes: sizeBytes - atBytes };
    for (const { offsetBytes, lengthBytes, flags } of await client.blockStatus(range, signal)) {
      atBytes = offsetBytes + lengthBytes;
      if (!isChanged(flags[change] ?? 0)) continue;
      const isZero = ((flags[allocation] ?? 0) & nbdAllocationFlag.zero) !== 0;
      collector.add(offsetBytes, lengthBytes, isZero ? "zero" : "data");
    }
  }
  return collector.finish();
}
