/**
 * The task "Take Snapshot": one instant of all disks of a VM. From its end on the recovery point
 * exists, whoever dies: it is listed and restored from the snapshot, and sent to a vault later.
 */
import type { Clock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import type { Hypervisor, SnapshotRequest, VmSnapshot } from "#ports/hypervisor.ts";
import type { VmConfigurations } from "#ports/vm-configurations.ts";
import { expireSnapshots, type ExpiryReport } from "#protect/expire-snapshots.ts";
import { orderPointId } from "#protect/point-order.ts";
import { assertSnapshotSpace, layersToFree, type SpaceWish } from "#protect/snapshot-space.ts";

/** What the task needs. */
export interface TakeSnapshotDeps {
  readonly hypervisor: Hypervisor;
  readonly configurations: VmConfigurations;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly signal?: AbortSignal;
  /** Told once the guest goes on. */
  readonly onSnapshot?: (snapshot: VmSnapshot) => void;
}

/** A VM and how to take its instant. */
export interface TakeSnapshotRequest extends Omit<SnapshotRequest, "label"> {
  readonly vmId: string;
  readonly itemId: string;
  /** How long the snapshot is kept, 1 to 30. */
  readonly days: number;
  readonly space: SpaceWish;
}

/** A snapshot that was taken, and what it took. */
export interface TakenSnapshot {
  readonly snapshot: VmSnapshot;
  /** Snapshots that had to go first; absent where none had. */
  readonly madeRoom?: ExpiryReport;
  /** For people: what is wrong with the clock. */
  readonly warnings: readonly string[];
}

/**
 * Makes room, checks the space and takes a snapshot that is a recovery point.
 *
 * Errors: SnapshotNoSpace (after-change), with nothing done but early expiry; those of the hypervisor
 * and of the configurations. On any error the VM goes on as it was.
 */
export async function takeVmSnapshot(
  request: TakeSnapshotRequest,
  deps: TakeSnapshotDeps,
): Promise<TakenSnapshot> {
  const { hypervisor, clock, signal } = deps;
  const { vmId, itemId, days, space: _, ...wish } = request;
  const startMs = clock.monotonicMs();
  const vm = await hypervisor.get(vmId, signal);
  const vmConfiguration = await deps.configurations.read(vm.id, signal);
  const madeRoom = await makeRoom(request, deps);
  const snapshots = await hypervisor.listSnapshots(vmId, signal);
  const newest = snapshots.findLast(({ label }) => label?.itemId === itemId)?.label?.pointId;
  const { pointId, warnings } = orderPointId(clock.nowMs(), newest, deps.random);
  const preparationMs = Math.round(clock.monotonicMs() - startMs);
  const label = { pointId, itemId, itemName: vm.name, vmConfiguration, days, preparationMs };
  const snapshot = await hypervisor.takeSnapshot(vm.id, { ...wish, label }, signal);
  deps.onSnapshot?.(snapshot);
  return { snapshot, warnings, ...(madeRoom === undefined ? {} : { madeRoom }) };
}

/** Lets the oldest go where there is no layer left for one more, and looks at the free space. */
async function makeRoom(
  request: TakeSnapshotRequest,
  deps: TakeSnapshotDeps,
): Promise<ExpiryReport | undefined> {
  const { vmId, space } = request;
  const disks = await deps.hypervisor.readSpace(vmId, request.disks, deps.signal);
  const missing = layersToFree(disks);
  const report = missing === 0 ? undefined : await expireSnapshots(vmId, missing, deps);
  assertSnapshotSpace(disks, space);
  return report;
}
