/** Which disks of a VM a snapshot takes. */
import { KluisError } from "#base/kluis-error.ts";
import type { DiskSelection } from "#ports/hypervisor.ts";
import type { LayeredVm } from "./layered-vm.ts";

/**
 * Names of the disks to take, in order: all, those of the list, or all but the excluded ones; the OS
 * disk always. Errors: ArgumentInvalid (after-change) where a name is of no disk, or the OS disk is
 * excluded; SnapshotFailed (after-change) where a disk is to be taken that cannot have layers.
 */
export function chooseDisks(
  description: LayeredVm["description"],
  selection: DiskSelection = {},
): readonly string[] {
  const { name: vm, disks, refused = [] } = description;
  const known = [...disks, ...refused].map((disk) => disk.name);
  const { osDisk = known[0] } = description;
  for (const name of [...(selection.include ?? []), ...(selection.exclude ?? [])]) {
    if (known.includes(name)) continue;
    const names = known.join(", ");
    throw invalid(`Cannot choose disk "${name}" of VM "${vm}": it has none; there are ${names}`);
  }
  const { include = known, exclude = [] } = selection;
  if (osDisk !== undefined && exclude.includes(osDisk)) {
    throw invalid(
      `Cannot leave disk "${osDisk}" of VM "${vm}" out: it is the OS disk, which is always taken`,
    );
  }
  const isTaken = (name: string): boolean =>
    name === osDisk || (include.includes(name) && !exclude.includes(name));
  const impossible = refused.find((disk) => isTaken(disk.name));
  if (impossible === undefined) return known.filter(isTaken);
  throw new KluisError(
    "SnapshotFailed",
    `Cannot take a snapshot of VM "${vm}": disk "${impossible.name}": ${impossible.reason}`,
  );
}

function invalid(message: string): KluisError {
  return new KluisError("ArgumentInvalid", message);
}
