/** Removing layers that are in no chain: only where nothing names them any more. */
import { KluisError } from "#base/kluis-error.ts";
import { removeDurably } from "./durable-file.ts";
import type { LayeredVm } from "./layered-vm.ts";
import { readBackingPath } from "./overlay.ts";
import type { VmRecord } from "./vm-record.ts";

/**
 * Removes files that the record does not have in a chain. Errors: SnapshotFailed where the header of
 * a layer, or a configuration of a VM, still names one: then none is removed.
 */
export async function removeLayers(
  vm: LayeredVm,
  record: VmRecord,
  paths: readonly string[],
): Promise<void> {
  if (paths.length === 0) return;
  for (const layer of record.disks.flatMap((disk) => disk.layers.slice(1))) {
    const below = await readBackingPath(layer.path);
    if (below !== undefined && paths.includes(below)) throw stillNamed(below, layer.path);
  }
  const named = await vm.readConfigured();
  for (const path of paths) if (named.has(path)) throw stillNamed(path, "the XML of a VM");
  await removeDurably(paths);
}

function stillNamed(path: string, by: string): KluisError {
  return new KluisError("SnapshotFailed", `Cannot remove layer "${path}": ${by} still names it`, {
    details: { path },
  });
}
