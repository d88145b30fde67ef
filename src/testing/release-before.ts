/** Releases of snapshots by age, for tests. */
import type { Hypervisor } from "#ports/hypervisor.ts";

/** Releases every snapshot that is older than `keepId`, and merges what an earlier release left. */
export async function releaseBefore(
  hypervisor: Hypervisor,
  vmId: string,
  keepId: string,
): Promise<void> {
  const ids = (await hypervisor.listSnapshots(vmId)).map(({ id }) => id);
  await hypervisor.releaseSnapshots(vmId, new Set(ids.slice(0, ids.indexOf(keepId))));
}
